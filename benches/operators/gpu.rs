//! The same on a wgpu device: operators prepared once, calls bound to their buffers before anything is timed, and time
//! by the device's clock where it has one.

use lightspan::wgpu::wgpu::Buffer;
use lightspan::wgpu::{Call, Elements, Gpu, Rows};
use lightspan::{DType, Error, Result, Tensor};

use crate::stopwatch::{Stopwatch, Work};
use crate::support::{self, Group, Line, left_out, tensor};

/// An operator, and how many numbers a call of it needs in each of two scratch buffers.
pub(crate) type Prepared<O> = Result<(O, [u64; 2])>;

/// Times calls that have to move `bytes`, on buffers from `make`, others each time. What needs more than the device
/// allows is left out, and said to be.
pub(crate) fn measure<O, T>(
    group: &mut Group<'_>,
    gpu: &Gpu,
    (line, bytes): (Line, u64),
    prepared: Prepared<O>,
    make: impl Fn() -> Result<T>,
    bind: impl Fn(&O, &T, [Option<&Buffer>; 2]) -> Result<Call>,
) -> Result<()> {
    let (operator, lengths) = match prepared.and_then(|prepared| allowed(gpu, prepared)) {
        Ok(prepared) => prepared,
        Err(error @ Error::Limit { .. }) => {
            left_out(&line, error);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let device = group.device().clone();
    // All calls share it, as in use: the device runs them one after another.
    let mut scratch: Option<[Option<Tensor>; 2]> = None;
    let call = || {
        let made = match scratch.take() {
            Some(made) => made,
            None => {
                let numbers = |len: u64| Tensor::zeros(&[len as usize], DType::F32, &device);
                let [a, b] = lengths.map(|len| (len > 0).then(|| numbers(len)).transpose());
                [a?, b?]
            }
        };
        let made = &*scratch.insert(made);
        bind(&operator, &make()?, made.each_ref().map(|tensor| Some(buffer(tensor.as_ref()?))))
    };
    rotate(group, gpu, (line, bytes), call, |call| Work::Call(call));
    Ok(())
}

/// The floor: a copy of so many bytes on the device.
pub(crate) fn measure_copy(group: &mut Group<'_>, gpu: &Gpu, line: Line, bytes: usize) {
    let device = group.device().clone();
    let x = || tensor(&[bytes / DType::F32.size()], DType::F32, &device);
    let make = || Ok([x()?, x()?]);
    rotate(group, gpu, (line, 2 * bytes as u64), make, |[x, y]| Work::Copy {
        from: buffer(x),
        to: buffer(y),
    });
}

/// Times work on buffers from `make`.
fn rotate<T>(
    group: &mut Group<'_>,
    gpu: &Gpu,
    line: (Line, u64),
    make: impl FnMut() -> Result<T>,
    work: impl Fn(&T) -> Work<'_>,
) {
    let stopwatch = Stopwatch::new(gpu);
    support::rotate(group, line, make, |ring, calls| stopwatch.time(ring.take(calls).map(&work)));
}

/// An error where the device does not allow so much scratch memory in one buffer.
fn allowed<O>(gpu: &Gpu, (operator, lengths): (O, [u64; 2])) -> Prepared<O> {
    let limit = gpu.limits().binding.min(gpu.limits().buffer);
    match lengths.into_iter().map(|len| len.saturating_mul(4)).find(|&bytes| bytes > limit) {
        Some(needed) => Err(Error::Limit { what: "bytes of", of: "scratch", needed, limit }),
        None => Ok((operator, lengths)),
    }
}

/// The numbers of a tensor of the device.
pub(crate) fn elements(tensor: &Tensor) -> Elements<'_> {
    buffer(tensor).into()
}

/// The same as rows.
pub(crate) fn rows(tensor: &Tensor) -> Rows<'_> {
    Rows::contiguous(elements(tensor))
}

fn buffer(tensor: &Tensor) -> &Buffer {
    tensor.wgpu_buffer().expect("a tensor of a wgpu device")
}
