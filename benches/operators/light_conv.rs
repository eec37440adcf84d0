use criterion::{BenchmarkId, Criterion};
use lightspan::problem::LightConvProblem;
use lightspan::{DType, Result, Tensor, Window, ops};

use crate::support::{
    CHANNELS, Group, HEADS, TIME, TOKENS, WIDTH, WIDTHS, convolution, measure, measure_copy, noise, tensor,
    tokens,
};
use crate::unfused::{Shape, Unfused};

/// The operator and its unfused composition on sequences of `time`.
pub(crate) fn by_length(group: &mut Group<'_>, time: usize) -> Result<()> {
    let window = Window::same(WIDTH)?;
    measure_fused(group, BenchmarkId::new("light_conv", time), time, window, DType::F32)?;
    measure_unfused(group, BenchmarkId::new("light_conv unfused", time), time, window)
}

pub(crate) fn by_width(criterion: &mut Criterion) -> Result<()> {
    let mut group = criterion.benchmark_group("light_conv_by_width");
    measure_copy(&mut group, "f32", TOKENS);
    for width in WIDTHS {
        let window = Window::same(width)?;
        measure_fused(&mut group, BenchmarkId::new("f32", width), TIME, window, DType::F32)?;
        measure_unfused(&mut group, BenchmarkId::new("unfused", width), TIME, window)?;
    }
    let window = Window::same(WIDTH)?;
    for dtype in [DType::F16, DType::BF16] {
        measure_fused(&mut group, BenchmarkId::new(dtype.to_string(), WIDTH), TIME, window, dtype)?;
    }
    group.finish();
    Ok(())
}

/// The operator on sequences of `time`. Also what a dynamic convolution costs beyond its generating product.
pub(crate) fn measure_fused(
    group: &mut Group<'_>,
    id: BenchmarkId,
    time: usize,
    window: Window,
    dtype: DType,
) -> Result<()> {
    let problem = LightConvProblem::new(convolution(time, window, dtype)?);
    let weight = tensor(&problem.weight_shape(), dtype)?;
    let make = || -> Result<[Tensor; 2]> { Ok([tokens(time, dtype)?, tokens(time, dtype)?]) };
    measure(group, id, problem.bytes(), make, |[x, y]| {
        ops::light_conv_into(y, x, &weight, window, &Default::default())
    });
    Ok(())
}

fn measure_unfused(group: &mut Group<'_>, id: BenchmarkId, time: usize, window: Window) -> Result<()> {
    let problem = LightConvProblem::new(convolution(time, window, DType::F32)?);
    let weight = noise(HEADS * window.width());
    let mut unfused = Unfused::new(Shape::new(time, window));
    let make = || Ok([noise(TOKENS * CHANNELS), noise(TOKENS * CHANNELS)]);
    measure(group, id, problem.bytes(), make, |[x, y]| {
        unfused.light_conv(x, &weight, y);
        Ok(())
    });
    Ok(())
}
