use crate::cpu::{self, Rows};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::problem::{Convolution, HistoryProblem};
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{Result, Sequences, Tensor, Window};

/// Moves a decoder's memory on: the last (K - 1) r tokens of each sequence once those of x have gone by.
///
/// next\[s, i\] = (history\[s\] followed by the tokens of sequence s)\[length + i\]. x `[batch, time, C]` or packed
/// `[tokens, C]`; history and next `[sequences, (K - 1) r, C]`. Before the first call, history is zeros. `sequences`
/// are those of x (by default each row of the batch is one); what they say of tokens gone by is not read here.
///
/// # Errors
///
/// For a window that is not causal, and tensors whose shapes, types or devices do not fit.
pub fn history(
    x: &Tensor,
    history: &Tensor,
    window: Window,
    sequences: Option<&Sequences>,
) -> Result<Tensor> {
    let call = describe(x, history, window, sequences)?;
    let mut next = Tensor::unwritten(history.shape(), x.dtype(), x.device())?;
    launch(&call, x, history, &mut next)?;
    Ok(next)
}

/// [`history`] into a tensor that is there, of the shape and type of the history.
///
/// # Errors
///
/// As [`history`], and where `next` does not fit.
pub fn history_into(
    next: &mut Tensor,
    x: &Tensor,
    history: &Tensor,
    window: Window,
    sequences: Option<&Sequences>,
) -> Result<()> {
    let call = describe(x, history, window, sequences)?;
    check::operand("next", next, x, x.dtype(), history.shape())?;
    launch(&call, x, history, next)
}

type Call = (HistoryProblem, Sequences);

fn describe(x: &Tensor, history: &Tensor, window: Window, sequences: Option<&Sequences>) -> Result<Call> {
    let (channels, sequences) = check::tokens("x", x, sequences)?;
    let conv = Convolution::new(sequences.shape(), channels, 1, window, x.dtype())?;
    let problem = HistoryProblem::new(conv)?;
    check::operand("history", history, x, x.dtype(), &problem.convolution().history_shape())?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::History::new(gpu, problem))?;
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::History::new(gpu, problem))?;
    Ok((problem, sequences))
}

fn launch((problem, sequences): &Call, x: &Tensor, history: &Tensor, next: &mut Tensor) -> Result<()> {
    match x.device().room() {
        Room::Cpu(_) => cpu::History::new(*problem).run(cpu::HistoryArgs {
            sequences,
            x: Rows::contiguous(x.cpu()),
            history: history.cpu(),
            next: next.cpu_mut(),
        }),
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::History::new(gpu, *problem)?;
            let args = wgpu::HistoryArgs {
                sequences: &gpu.sequences(sequences)?,
                x: wgpu::Rows::contiguous(x.buffer()),
                history: history.buffer().into(),
                next: next.buffer().into(),
            };
            gpu.run([0, 0], |_| operator.bind(args))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => cuda::History::new(gpu, *problem)?.launch(cuda::HistoryArgs {
            sequences: &gpu.sequences(sequences)?,
            x: cuda::Rows::contiguous(x.on_cuda()),
            history: history.on_cuda(),
            next: next.on_cuda_mut(),
        }),
    }
}
