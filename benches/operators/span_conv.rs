use criterion::BenchmarkId;
use lightspan::problem::SpanConvProblem;
use lightspan::{DType, Result, Tensor, Window, ops};

use crate::support::{CHANNELS, Group, HEADS, TOKENS, WIDTH, convolution, measure, noise, tensor, tokens};
use crate::unfused::{Shape, SpanConv, Unfused};

/// The operator and its unfused composition on sequences of `time`.
pub(crate) fn by_length(group: &mut Group<'_>, time: usize) -> Result<()> {
    let window = Window::same(WIDTH)?;
    measure_fused(group, time, window)?;
    measure_unfused(group, time, window)
}

/// As many channels A in the key and the values as C in x.
fn problem(time: usize, window: Window) -> Result<SpanConvProblem> {
    SpanConvProblem::new(CHANNELS, convolution(time, window, DType::F32)?)
}

fn measure_fused(group: &mut Group<'_>, time: usize, window: Window) -> Result<()> {
    let dtype = DType::F32;
    let depthwise = tensor(&[CHANNELS, WIDTH], dtype)?;
    let pointwise = tensor(&[CHANNELS, CHANNELS], dtype)?;
    let weight = tensor(&[HEADS * WIDTH, CHANNELS], dtype)?;
    let make = || -> Result<[Tensor; 4]> {
        Ok([tokens(time, dtype)?, tokens(time, dtype)?, tokens(time, dtype)?, tokens(time, dtype)?])
    };
    let bytes = problem(time, window)?.bytes();
    measure(group, BenchmarkId::new("span_conv", time), bytes, make, |[x, query, value, y]| {
        let tensors = ops::SpanConvTensors {
            x,
            query,
            value,
            depthwise: &depthwise,
            pointwise: &pointwise,
            weight: &weight,
        };
        ops::span_conv_into(y, &tensors, HEADS, window, &Default::default())
    });
    Ok(())
}

fn measure_unfused(group: &mut Group<'_>, time: usize, window: Window) -> Result<()> {
    let depthwise = noise(CHANNELS * WIDTH);
    let pointwise = noise(CHANNELS * CHANNELS);
    let weight = noise(HEADS * WIDTH * CHANNELS);
    let mut unfused = Unfused::new(Shape::new(time, window));
    let make = || Ok([(); 4].map(|()| noise(TOKENS * CHANNELS)));
    let bytes = problem(time, window)?.bytes();
    measure(group, BenchmarkId::new("span_conv unfused", time), bytes, make, |[x, query, value, y]| {
        let inputs =
            SpanConv { x, query, value, depthwise: &depthwise, pointwise: &pointwise, weight: &weight };
        unfused.span_conv(&inputs, y)
    });
    Ok(())
}
