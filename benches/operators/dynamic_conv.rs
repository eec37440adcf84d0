use criterion::{BenchmarkId, Criterion};
use lightspan::problem::{DynamicConvProblem, LinearProblem};
use lightspan::{DType, Device, Result, Tensor, Window, ops};

use crate::light_conv;
use crate::support::{
    CHANNELS, Group, HEADS, TIME, TOKENS, WIDTH, WIDTHS, convolution, measure, measure_copy, noise, tensor,
    tokens,
};
use crate::unfused::{Shape, Unfused};

/// The operator and its unfused composition on sequences of `time`.
pub(crate) fn by_length(group: &mut Group<'_>, time: usize) -> Result<()> {
    let window = Window::same(WIDTH)?;
    measure_fused(group, BenchmarkId::new("dynamic_conv", time), time, window, DType::F32)?;
    measure_unfused(group, BenchmarkId::new("dynamic_conv unfused", time), time, window)
}

pub(crate) fn by_width(criterion: &mut Criterion) -> Result<()> {
    // What a dynamic convolution cannot avoid is its generating product, and a pass over x: `f32` is to be set against
    // `product` and `light_conv` together, and all above that is the price of taps that differ from token to token.
    let mut group = criterion.benchmark_group("dynamic_conv_by_width");
    measure_copy(&mut group, "f32", TOKENS);
    for width in WIDTHS {
        let window = Window::same(width)?;
        measure_fused(&mut group, BenchmarkId::new("f32", width), TIME, window, DType::F32)?;
        measure_product(&mut group, BenchmarkId::new("product", width), width, DType::F32)?;
        let id = BenchmarkId::new("light_conv", width);
        light_conv::measure_fused(&mut group, id, TIME, window, DType::F32)?;
        measure_unfused(&mut group, BenchmarkId::new("unfused", width), TIME, window)?;
    }
    let window = Window::same(WIDTH)?;
    for dtype in [DType::F16, DType::BF16] {
        measure_fused(&mut group, BenchmarkId::new(dtype.to_string(), WIDTH), TIME, window, dtype)?;
        let id = BenchmarkId::new(format!("product_{dtype}"), WIDTH);
        measure_product(&mut group, id, WIDTH, dtype)?;
    }
    group.finish();
    Ok(())
}

fn measure_fused(
    group: &mut Group<'_>,
    id: BenchmarkId,
    time: usize,
    window: Window,
    dtype: DType,
) -> Result<()> {
    let problem = DynamicConvProblem::generated(convolution(time, window, dtype)?)?;
    let weight = tensor(&[problem.logits(), CHANNELS], dtype)?;
    let make = || -> Result<[Tensor; 2]> { Ok([tokens(time, dtype)?, tokens(time, dtype)?]) };
    measure(group, id, problem.bytes(), make, |[x, y]| {
        ops::dynamic_conv_into(y, x, &weight, HEADS, window, &Default::default())
    });
    Ok(())
}

/// The generating product alone, [C] to [H K] for each token.
fn measure_product(group: &mut Group<'_>, id: BenchmarkId, width: usize, dtype: DType) -> Result<()> {
    let problem = LinearProblem::new(TOKENS, CHANNELS, HEADS * width, dtype)?;
    let weight = tensor(&[problem.outputs(), CHANNELS], dtype)?;
    let logits = [TOKENS / TIME, TIME, problem.outputs()];
    let make = || -> Result<[Tensor; 2]> {
        Ok([tokens(TIME, dtype)?, Tensor::zeros(&logits, dtype, &Device::cpu())?])
    };
    measure(group, id, problem.bytes(), make, |[x, y]| ops::linear_into(y, x, &weight, &Default::default()));
    Ok(())
}

fn measure_unfused(group: &mut Group<'_>, id: BenchmarkId, time: usize, window: Window) -> Result<()> {
    let problem = DynamicConvProblem::generated(convolution(time, window, DType::F32)?)?;
    let weight = noise(problem.logits() * CHANNELS);
    let mut unfused = Unfused::new(Shape::new(time, window));
    let make = || Ok([noise(TOKENS * CHANNELS), noise(TOKENS * CHANNELS)]);
    measure(group, id, problem.bytes(), make, |[x, y]| unfused.dynamic_conv(x, &weight, y));
    Ok(())
}
