use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::problem::TopKProblem;
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{DType, Dims, Error, Result, Tensor, Tokens};

/// What [`top_k`] may have.
#[derive(Clone, Copy, Debug, Default)]
pub struct TopKOptions {
    /// Whether values are the logarithms of a softmax over the row, which a beam search adds up: x - m - ln(sum exp(x - m)) with
    /// m the largest of the row, in f32. In a row that has a NaN or +infinity, or nothing but -infinity, all are NaN.
    pub log_softmax: bool,
}

/// Where the largest number of each row stands; of equal ones the first. NaN counts as larger than every number, so that it is
/// seen.
///
/// x `[.., V]`; tokens of its sizes before the last.
///
/// # Errors
///
/// As [`top_k`].
pub fn argmax(x: &Tensor) -> Result<Tokens> {
    let call = describe(x, None, &TopKOptions::default())?;
    let mut tokens = Tokens::unwritten(&call.shape, x.device())?;
    launch(&call.problem, x, None, &mut tokens)?;
    Ok(tokens)
}

/// [`argmax`] into tokens that are there.
///
/// # Errors
///
/// As [`argmax`], and where the tokens do not fit.
pub fn argmax_into(tokens: &mut Tokens, x: &Tensor) -> Result<()> {
    let call = describe(x, None, &TopKOptions::default())?;
    check::operand("tokens", tokens.bits(), x, DType::F32, &call.shape)?;
    launch(&call.problem, x, None, tokens)
}

/// The k largest numbers of each row, and where they stand.
///
/// x `[.., V]`; values (in f32) and tokens `[.., k]`. Values fall, and of equal ones that with the lower index comes first. NaN
/// counts as larger than every number; several come in the order of their indices.
///
/// ```
/// use lightspan::{Device, Tensor, ops};
///
/// let x = Tensor::from_slice(&[0.0f32, 2.0, 1.0, 2.0], &[1, 4], &Device::cpu())?;
/// let (values, tokens) = ops::top_k(&x, 3, &ops::TopKOptions::default())?;
/// assert_eq!(values.to_f32()?, [2.0, 2.0, 1.0]);
/// assert_eq!(tokens.to_vec()?, [1, 3, 2]);
/// assert_eq!(ops::argmax(&x)?.to_vec()?, [1]);
/// # Ok::<(), lightspan::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::TopK`] for a k past V, [`Error::ZeroSize`] where k or V is zero, and as [`TopKProblem::new`].
pub fn top_k(x: &Tensor, k: usize, options: &TopKOptions) -> Result<(Tensor, Tokens)> {
    let call = describe(x, Some(k), options)?;
    let mut values = Tensor::unwritten(&call.shape, DType::F32, x.device())?;
    let mut tokens = Tokens::unwritten(&call.shape, x.device())?;
    launch(&call.problem, x, Some(&mut values), &mut tokens)?;
    Ok((values, tokens))
}

/// [`top_k`] into values and tokens that are there.
///
/// # Errors
///
/// As [`top_k`], and where values or tokens do not fit.
pub fn top_k_into(
    values: &mut Tensor,
    tokens: &mut Tokens,
    x: &Tensor,
    k: usize,
    options: &TopKOptions,
) -> Result<()> {
    let call = describe(x, Some(k), options)?;
    check::operand("values", values, x, DType::F32, &call.shape)?;
    check::operand("tokens", tokens.bits(), x, DType::F32, &call.shape)?;
    launch(&call.problem, x, Some(values), tokens)
}

struct Call {
    problem: TopKProblem,
    /// Of the tokens.
    shape: Vec<usize>,
}

/// The k largest with their values, or the largest without.
fn describe(x: &Tensor, k: Option<usize>, options: &TopKOptions) -> Result<Call> {
    let Some((&vocabulary, rows)) = x.shape().split_last() else {
        return Err(Error::Shape { tensor: "x", expected: Dims(vec![None]), got: x.shape().into() });
    };
    let problem = TopKProblem::new(rows.iter().product(), vocabulary, k.unwrap_or(1), x.dtype())?
        .with_values(k.is_some())
        .with_log_softmax(options.log_softmax);
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::TopK::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::TopK::new(gpu, problem))?;
    Ok(Call { problem, shape: rows.iter().copied().chain(k).collect() })
}

fn launch(problem: &TopKProblem, x: &Tensor, values: Option<&mut Tensor>, tokens: &mut Tokens) -> Result<()> {
    match x.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::TopK::new(*problem);
            let args = cpu::TopKArgs {
                x: Rows::contiguous(x.cpu()),
                values: values.map(|values| RowsMut::contiguous(values.cpu_mut())),
                tokens: tokens.cpu_mut(),
            };
            scratch.with(operator.scratch_len(), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::TopK::new(gpu, *problem)?;
            let args = wgpu::TopKArgs {
                x: wgpu::Rows::contiguous(x.buffer()),
                values: values.map(|values| wgpu::Rows::contiguous(values.buffer())),
                tokens: tokens.buffer().into(),
            };
            gpu.run([0, 0], |_| operator.bind(args))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => cuda::TopK::new(gpu, *problem)?.launch(cuda::TopKArgs {
            x: cuda::Rows::contiguous(x.on_cuda()),
            values: values.map(|values| cuda::RowsMut::contiguous(values.on_cuda_mut())),
            tokens: tokens.on_cuda_mut(),
        }),
    }?;
    tokens.written(problem.vocabulary() as u64);
    Ok(())
}
