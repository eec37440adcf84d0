use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::problem::AppendProblem;
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{Error, Result, Sequences, Tensor};

/// Writes tokens behind those that a cache holds, in place: the keys of a decoder with attention, or its values.
///
/// cache\[s, past + i\] = x\[s, i\], i < length. x `[batch, time, C]` or packed `[tokens, C]`, as `sequences` say; what
/// they say of tokens gone by ([`Sequences::after`]) is where to write. cache `[sequences, room, C]`: all of it but the
/// rows written stays as it is, to the bit. Numbers are moved and not looked at, and padding of x is not read.
///
/// # Errors
///
/// [`Error::CacheRoom`] for a sequence that goes past the room, and errors for tensors whose shapes, types or devices do
/// not fit. Nothing is written then.
pub fn append(cache: &mut Tensor, x: &Tensor, sequences: &Sequences) -> Result<()> {
    let (channels, sequences) = check::tokens("x", x, Some(sequences))?;
    let &[_, room, _] = cache.shape() else {
        let expected = [Some(sequences.shape().sequences()), None, Some(channels)].into();
        return Err(Error::Shape { tensor: "cache", expected, got: cache.shape().into() });
    };
    let problem = AppendProblem::new(sequences.shape(), channels, room, x.dtype())?;
    check::operand("cache", cache, x, x.dtype(), &problem.cache_shape())?;
    problem.check_room(sequences.furthest())?;
    match x.device().room() {
        Room::Cpu(_) => cpu::Append::new(problem).run(cpu::AppendArgs {
            sequences: &sequences,
            x: Rows::contiguous(x.cpu()),
            cache: RowsMut::contiguous(cache.cpu_mut()),
        }),
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::Append::new(gpu, problem)?;
            let args = wgpu::AppendArgs {
                sequences: &gpu.sequences(&sequences)?,
                x: wgpu::Rows::contiguous(x.buffer()),
                cache: wgpu::Rows::contiguous(cache.buffer()),
            };
            gpu.run([0, 0], |_| operator.bind(args))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => cuda::Append::new(gpu, problem)?.launch(cuda::AppendArgs {
            sequences: &gpu.sequences(&sequences)?,
            x: cuda::Rows::contiguous(x.on_cuda()),
            cache: cuda::RowsMut::contiguous(cache.on_cuda_mut()),
        }),
    }
}
