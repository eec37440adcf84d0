use criterion::Criterion;
use lightspan::problem::{DynamicConvProblem, LinearProblem};
use lightspan::{DType, Device, Result, Tensor, Window, ops};

use crate::light_conv;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::linear;
use crate::support::{
    CHANNELS, Group, HEADS, Line, Size, TIME, TOKENS, WIDTH, WIDTHS, measure, measure_copies, noise, tensor,
};
use crate::unfused::{Shape, Unfused};

/// The operator and its unfused composition on sequences of `time`.
pub(crate) fn by_length(group: &mut Group<'_>, time: usize) -> Result<()> {
    let window = Window::same(WIDTH)?;
    measure_fused(group, Line::new("dynamic_conv", time), time, window, DType::F32)?;
    measure_unfused(group, Line::new("dynamic_conv unfused", time), time, window)
}

pub(crate) fn by_width(criterion: &mut Criterion, device: &Device) -> Result<()> {
    // What a dynamic convolution cannot avoid is its generating product, and a pass over x: `f32` is to be set against
    // `product` and `light_conv` together, and all above that is the price of taps that differ from token to token.
    let mut group = Group::new(criterion, "dynamic_conv_by_width", device);
    let size = Size::of(TIME);
    measure_copies(&mut group, size);
    for width in WIDTHS {
        let window = Window::same(width)?;
        measure_fused(&mut group, Line::new("f32", width), TIME, window, DType::F32)?;
        measure_product(&mut group, Line::new("product", width), width, DType::F32)?;
        let line = Line::new("light_conv", width);
        light_conv::measure_fused(&mut group, line, size, window, DType::F32)?;
        measure_unfused(&mut group, Line::new("unfused", width), TIME, window)?;
    }
    let window = Window::same(WIDTH)?;
    for dtype in [DType::F16, DType::BF16] {
        measure_fused(&mut group, Line::new(dtype.to_string(), WIDTH), TIME, window, dtype)?;
        let line = Line::new(format!("product_{dtype}"), WIDTH);
        measure_product(&mut group, line, WIDTH, dtype)?;
    }
    group.finish();
    Ok(())
}

fn measure_fused(group: &mut Group<'_>, line: Line, time: usize, window: Window, dtype: DType) -> Result<()> {
    if group.lacks(&line) {
        return Ok(());
    }
    let size = Size::of(time);
    let problem = DynamicConvProblem::generated(size.convolution(window, dtype)?)?;
    let device = group.device().clone();
    let weight = tensor(&[problem.logits(), CHANNELS], dtype, &device)?;
    let make = || -> Result<[Tensor; 2]> { Ok([size.tokens(dtype, &device)?, size.tokens(dtype, &device)?]) };
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        use crate::gpu::{elements, measure, rows};
        use lightspan::wgpu::{DeviceSequences, DynamicConv, DynamicConvArgs, TapArgs};
        let sequences = DeviceSequences::new(gpu, &size.sequences()?)?;
        let operator = DynamicConv::new(gpu, problem).map(|operator| {
            let scratch = operator.scratch_len();
            (operator, [scratch, 0])
        });
        return measure(
            group,
            gpu,
            (line, problem.bytes()),
            operator,
            make,
            |operator, [x, y], [scratch, _]| {
                let weight = elements(&weight);
                let args = DynamicConvArgs {
                    sequences: &sequences,
                    x: rows(x),
                    taps: TapArgs::Generated { weight, weight_bias: None, query: None },
                    bias: None,
                    history: None,
                    y: rows(y),
                };
                operator.bind(args, scratch)
            },
        );
    }
    measure(group, line, problem.bytes(), make, |[x, y]| {
        ops::dynamic_conv_into(y, x, &weight, HEADS, window, &Default::default())
    });
    Ok(())
}

/// The generating product alone, [C] to [H K] for each token.
fn measure_product(group: &mut Group<'_>, line: Line, width: usize, dtype: DType) -> Result<()> {
    let problem = LinearProblem::new(TOKENS, CHANNELS, HEADS * width, dtype)?;
    let device = group.device().clone();
    let weight = tensor(&[problem.outputs(), CHANNELS], dtype, &device)?;
    let logits = [TOKENS / TIME, TIME, problem.outputs()];
    let make = || -> Result<[Tensor; 2]> {
        Ok([Size::of(TIME).tokens(dtype, &device)?, Tensor::zeros(&logits, dtype, &device)?])
    };
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        return linear::measure_gpu(group, gpu, line, problem, &weight, None, make);
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        return linear::measure_cuda(group, gpu, line, problem, &weight, None, make);
    }
    measure(group, line, problem.bytes(), make, |[x, y]| {
        ops::linear_into(y, x, &weight, &Default::default())
    });
    Ok(())
}

fn measure_unfused(group: &mut Group<'_>, line: Line, time: usize, window: Window) -> Result<()> {
    if !group.has_unfused() {
        return Ok(());
    }
    let problem = DynamicConvProblem::generated(Size::of(time).convolution(window, DType::F32)?)?;
    let weight = noise(problem.logits() * CHANNELS);
    let mut unfused = Unfused::new(Shape::new(time, window));
    let make = || Ok([noise(TOKENS * CHANNELS), noise(TOKENS * CHANNELS)]);
    measure(group, line, problem.bytes(), make, |[x, y]| unfused.dynamic_conv(x, &weight, y));
    Ok(())
}
