//! What each wrong argument of the wgpu room is answered, before anything is launched.

mod append;
mod convolution_gradients;
mod convolutions;
mod gradients;
mod limits;
mod products;
mod tables;

use ::wgpu::{Buffer, BufferUsages};
use lightspan::problem::Convolution;
use lightspan::wgpu::{DeviceSequences, Elements, Gpu, Rows};
use lightspan::{DType, DropoutRate, Error, Sequences, Window};

use crate::support::gpu::{default_device, empty};

/// Buffers to make calls of, all of f32.
struct Bench {
    gpu: Gpu,
    /// 200 numbers each: enough for any argument here.
    inputs: Vec<Buffer>,
    output: Buffer,
    /// As long, but not to be bound.
    copies: Buffer,
    /// Six tokens in two sequences, and others that do not fit.
    good: DeviceSequences,
    later: DeviceSequences,
    other: DeviceSequences,
}

const NUMBERS: usize = 200;

fn sequences() -> [Sequences; 3] {
    let good = Sequences::batch(2, 3).unwrap();
    [good.clone(), good.after(&[0, 1]).unwrap(), Sequences::batch(3, 2).unwrap()]
}

impl Bench {
    fn new() -> Option<Self> {
        let gpu = default_device()?.gpu().unwrap().clone();
        let buffer = |usage| empty(&gpu, 4 * NUMBERS as u64, usage);
        let [good, later, other] = sequences().map(|list| DeviceSequences::new(&gpu, &list).unwrap());
        Some(Bench {
            inputs: (0..2).map(|_| buffer(BufferUsages::STORAGE)).collect(),
            output: buffer(BufferUsages::STORAGE),
            copies: buffer(BufferUsages::COPY_SRC | BufferUsages::COPY_DST),
            gpu,
            good,
            later,
            other,
        })
    }

    /// Numbers of an input.
    fn some(&self) -> Elements<'_> {
        (&self.inputs[0]).into()
    }

    /// The last `len` numbers of an input: there are no more.
    fn last(&self, len: usize) -> Elements<'_> {
        Elements::at(&self.inputs[0], NUMBERS - len)
    }

    /// Numbers that may not be bound.
    fn unbound(&self) -> Elements<'_> {
        (&self.copies).into()
    }

    /// Numbers of the output.
    fn out(&self) -> Elements<'_> {
        (&self.output).into()
    }
}

fn rows(elements: Elements<'_>) -> Rows<'_> {
    Rows::contiguous(elements)
}

/// H = 2, K = 3 (so H K = 6), a history of two tokens for each sequence.
fn conv(channels: usize) -> Convolution {
    let [good, ..] = sequences();
    Convolution::new(good.shape(), channels, 2, Window::causal(3).unwrap(), DType::F32).unwrap()
}

fn full(channels: usize) -> Convolution {
    conv(channels).with_bias(true).with_history(true).unwrap()
}

/// With weight dropout, which wants a seed.
fn dropped(channels: usize) -> Convolution {
    conv(channels).with_dropout(Some(DropoutRate::new(0.5).unwrap()))
}

fn missing(tensor: &'static str) -> Error {
    Error::Missing { tensor }
}

fn surplus(tensor: &'static str) -> Error {
    Error::Surplus { tensor }
}

/// A range that ends one number past its buffer.
fn short(tensor: &'static str) -> Error {
    Error::Length { tensor, expected: NUMBERS + 1, got: NUMBERS }
}

fn stride(tensor: &'static str, channels: usize) -> Error {
    Error::Stride { tensor, stride: channels - 1, channels }
}

fn usage(tensor: &'static str) -> Error {
    Error::BufferUsage { tensor, usage: "STORAGE" }
}

fn shared(output: &'static str, input: &'static str) -> Error {
    Error::SharedBuffer { output, input }
}

fn other_sequences() -> Error {
    let [good, _, other] = sequences();
    Error::Sequences { expected: good.shape().to_string(), got: other.shape().to_string() }
}
