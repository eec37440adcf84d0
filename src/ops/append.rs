use crate::cpu::{self, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::{Channels, check};
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
pub fn append<'a>(cache: &mut Tensor, x: impl Into<Channels<'a>>, sequences: &Sequences) -> Result<()> {
    let x = x.into();
    let (channels, sequences) = check::tokens("x", x, Some(sequences))?;
    let &[_, room, _] = cache.shape() else {
        let expected = [Some(sequences.shape().sequences()), None, Some(channels)].into();
        return Err(Error::Shape { tensor: "cache", expected, got: cache.shape().into() });
    };
    let problem = AppendProblem::new(sequences.shape(), channels, room, x.dtype())?;
    check::operand("cache", cache, x.tensor(), x.dtype(), &problem.cache_shape())?;
    problem.check_room(sequences.furthest())?;
    match x.device().room() {
        Room::Cpu(_) => cpu::Append::new(problem).run(cpu::AppendArgs {
            sequences: &sequences,
            x: x.cpu(),
            cache: RowsMut::contiguous(cache.cpu_mut()),
        }),
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::Append::new(gpu, problem)?;
            let args = wgpu::AppendArgs {
                sequences: &gpu.sequences(&sequences)?,
                x: x.wgpu(),
                cache: wgpu::Rows::contiguous(cache.buffer()),
            };
            gpu.run([0, 0], |_| operator.bind(args))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => cuda::Append::new(gpu, problem)?.launch(cuda::AppendArgs {
            sequences: &gpu.sequences(&sequences)?,
            x: x.cuda(),
            cache: cuda::RowsMut::contiguous(cache.on_cuda_mut()),
        }),
    }
}
