//! The same on a CUDA device: operators prepared once, launched into its stream, and timed by its own clock.

use lightspan::cuda::{Elements, ElementsMut, Gpu, Rows, RowsMut};
use lightspan::{DType, Device, Error, Result, Tensor};

use crate::events::{Copy, Stopwatch};
use crate::support::{Group, Line, left_out, rotate};

/// Times calls that have to move `bytes`, on buffers from `make`, others each time. What needs more than the device
/// allows is left out, and said to be.
pub(crate) fn measure<O, T>(
    group: &mut Group<'_>,
    gpu: &Gpu,
    (line, bytes): (Line, u64),
    prepared: Result<O>,
    make: impl Fn() -> Result<T>,
    mut launch: impl FnMut(&O, &mut T) -> Result<()>,
) -> Result<()> {
    match prepared {
        Ok(operator) => time(group, gpu, (line, bytes), make, |buffers| launch(&operator, buffers)),
        Err(error @ Error::Limit { .. }) => left_out(&line, error),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Scratch memory, made at the first call. All calls share it, as in use: the device runs them one after another.
pub(crate) struct Scratch {
    device: Device,
    len: u64,
    made: Option<Tensor>,
}

impl Scratch {
    /// So many numbers of f32.
    pub(crate) fn new(device: &Device, len: u64) -> Self {
        Scratch { device: device.clone(), len, made: None }
    }

    /// The numbers, where there are any.
    pub(crate) fn get(&mut self) -> Result<Option<ElementsMut<'_>>> {
        if self.len == 0 {
            return Ok(None);
        }
        let made = match self.made.take() {
            Some(made) => made,
            None => Tensor::zeros(&[self.len as usize], DType::F32, &self.device)?,
        };
        Ok(self.made.insert(made).cuda_mut())
    }
}

/// The floor: a copy of so many bytes on the device.
pub(crate) fn measure_copy(group: &mut Group<'_>, gpu: &Gpu, line: Line, bytes: usize) {
    time(group, gpu, (line, 2 * bytes as u64), || Copy::new(gpu, bytes), Copy::run);
}

fn time<T>(
    group: &mut Group<'_>,
    gpu: &Gpu,
    line: (Line, u64),
    make: impl FnMut() -> Result<T>,
    mut call: impl FnMut(&mut T) -> Result<()>,
) {
    // It takes memory: made when something is timed.
    let mut stopwatch = None;
    rotate(group, line, make, |ring, calls| {
        let stopwatch = match &mut stopwatch {
            Some(stopwatch) => stopwatch,
            none => none.insert(Stopwatch::new(gpu)?),
        };
        stopwatch.time(calls, || call(ring.next()))
    });
}

/// The numbers of a tensor of the device.
pub(crate) fn elements(tensor: &Tensor) -> Elements<'_> {
    tensor.cuda().expect("a tensor of a CUDA device")
}

/// The same as rows.
pub(crate) fn rows(tensor: &Tensor) -> Rows<'_> {
    Rows::contiguous(elements(tensor))
}

/// The same to write.
pub(crate) fn rows_mut(tensor: &mut Tensor) -> RowsMut<'_> {
    RowsMut::contiguous(tensor.cuda_mut().expect("a tensor of a CUDA device"))
}
