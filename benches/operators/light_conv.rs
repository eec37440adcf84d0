use criterion::Criterion;
use lightspan::problem::LightConvProblem;
use lightspan::{DType, Device, Result, Tensor, Window, ops};

use crate::support::{
    CHANNELS, Group, HEADS, Line, Size, TIME, TOKENS, WIDTH, WIDTHS, measure, measure_copies, noise, tensor,
};
use crate::unfused::{Shape, Unfused};

/// The operator and its unfused composition on sequences of `time`.
pub(crate) fn by_length(group: &mut Group<'_>, size: Size, dtype: DType) -> Result<()> {
    let window = Window::same(WIDTH)?;
    measure_fused(group, Line::new("light_conv", size.time), size, window, dtype)?;
    measure_unfused(group, Line::new("light_conv unfused", size.time), size.time, window)
}

pub(crate) fn by_width(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "light_conv_by_width", device);
    let size = Size::of(TIME);
    measure_copies(&mut group, size);
    for width in WIDTHS {
        let window = Window::same(width)?;
        measure_fused(&mut group, Line::new("f32", width), size, window, DType::F32)?;
        measure_unfused(&mut group, Line::new("f32 unfused", width), TIME, window)?;
    }
    let window = Window::same(WIDTH)?;
    for dtype in [DType::F16, DType::BF16] {
        measure_fused(&mut group, Line::new(dtype.to_string(), WIDTH), size, window, dtype)?;
    }
    group.finish();
    Ok(())
}

/// Longer sequences of more channels, which fill any GPU, up to widths that other operators do not reach.
pub(crate) fn large(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "light_conv_large", device);
    let size = Size::large(4096);
    measure_copies(&mut group, size);
    for dtype in [DType::F32, DType::BF16] {
        for width in [3, 31, 127] {
            let line = Line::new(dtype.to_string(), width);
            measure_fused(&mut group, line, size, Window::same(width)?, dtype)?;
        }
    }
    group.finish();
    Ok(())
}

/// The operator alone. Also what a dynamic convolution costs beyond its generating product.
pub(crate) fn measure_fused(
    group: &mut Group<'_>,
    line: Line,
    size: Size,
    window: Window,
    dtype: DType,
) -> Result<()> {
    let problem = LightConvProblem::new(size.convolution(window, dtype)?);
    let device = group.device().clone();
    let weight = tensor(&problem.weight_shape(), dtype, &device)?;
    let make = || -> Result<[Tensor; 2]> { Ok([size.tokens(dtype, &device)?, size.tokens(dtype, &device)?]) };
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        use crate::gpu::{elements, measure, rows};
        use lightspan::wgpu::{DeviceSequences, LightConv, LightConvArgs};
        let sequences = DeviceSequences::new(gpu, &size.sequences()?)?;
        let operator = LightConv::new(gpu, problem).map(|operator| (operator, [0, 0]));
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, [x, y], _| {
            operator.bind(LightConvArgs {
                sequences: &sequences,
                x: rows(x),
                weight: elements(&weight),
                bias: None,
                history: None,
                seed: None,
                y: rows(y),
            })
        });
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        use crate::cuda::{elements, measure, rows, rows_mut};
        use lightspan::cuda::{DeviceSequences, LightConv, LightConvArgs};
        let sequences = DeviceSequences::new(gpu, &size.sequences()?)?;
        let operator = LightConv::new(gpu, problem);
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, [x, y]| {
            operator.launch(LightConvArgs {
                sequences: &sequences,
                x: rows(x),
                weight: elements(&weight),
                bias: None,
                history: None,
                seed: None,
                y: rows_mut(y),
            })
        });
    }
    measure(group, line, problem.bytes(), make, |[x, y]| {
        ops::light_conv_into(y, x, &weight, window, &Default::default())
    });
    Ok(())
}

fn measure_unfused(group: &mut Group<'_>, line: Line, time: usize, window: Window) -> Result<()> {
    if !group.has_unfused() {
        return Ok(());
    }
    let problem = LightConvProblem::new(Size::of(time).convolution(window, DType::F32)?);
    let weight = noise(HEADS * window.width());
    let mut unfused = Unfused::new(Shape::new(time, window));
    let make = || Ok([noise(TOKENS * CHANNELS), noise(TOKENS * CHANNELS)]);
    measure(group, line, problem.bytes(), make, |[x, y]| {
        unfused.light_conv(x, &weight, y);
        Ok(())
    });
    Ok(())
}
