use criterion::{BenchmarkId, Criterion};
use lightspan::problem::SpanConvProblem;
use lightspan::{DType, Result, Tensor, Window, ops};

use crate::support::{
    CHANNELS, Group, HEADS, LENGTHS, TOKENS, WIDTH, convolution, measure, measure_copy, noise, shape, tensor,
    tokens,
};
use crate::unfused::{SpanConv, Unfused};

pub(crate) fn bench(criterion: &mut Criterion) -> Result<()> {
    let window = Window::same(WIDTH)?;
    let mut group = criterion.benchmark_group("span_conv_by_length");
    for time in LENGTHS {
        measure_copy(&mut group, time, TOKENS);
        measure_fused(&mut group, time, window)?;
        measure_unfused(&mut group, time, window)?;
    }
    group.finish();
    Ok(())
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
    measure(group, BenchmarkId::new("fused", time), bytes, make, |[x, query, value, y]| {
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
    let mut unfused = Unfused::new(shape(time, window));
    let make = || Ok([(); 4].map(|()| noise(TOKENS * CHANNELS)));
    let bytes = problem(time, window)?.bytes();
    measure(group, BenchmarkId::new("unfused", time), bytes, make, |[x, query, value, y]| {
        let inputs =
            SpanConv { x, query, value, depthwise: &depthwise, pointwise: &pointwise, weight: &weight };
        unfused.span_conv(&inputs, y)
    });
    Ok(())
}
