use criterion::Criterion;
use lightspan::problem::LightConvProblem;
use lightspan::{DType, Device, Result, Tensor, Window, ops};

use crate::support::{
    CHANNELS, Group, HEADS, Line, TIME, TOKENS, WIDTH, WIDTHS, convolution, measure, measure_copy, noise,
    tensor, tokens,
};
use crate::unfused::{Shape, Unfused};

/// The operator and its unfused composition on sequences of `time`.
pub(crate) fn by_length(group: &mut Group<'_>, time: usize) -> Result<()> {
    let window = Window::same(WIDTH)?;
    measure_fused(group, Line::new("light_conv", time), time, window, DType::F32)?;
    measure_unfused(group, Line::new("light_conv unfused", time), time, window)
}

pub(crate) fn by_width(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "light_conv_by_width", device);
    measure_copy(&mut group, "f32", TOKENS);
    for width in WIDTHS {
        let window = Window::same(width)?;
        measure_fused(&mut group, Line::new("f32", width), TIME, window, DType::F32)?;
        measure_unfused(&mut group, Line::new("unfused", width), TIME, window)?;
    }
    let window = Window::same(WIDTH)?;
    for dtype in [DType::F16, DType::BF16] {
        measure_fused(&mut group, Line::new(dtype.to_string(), WIDTH), TIME, window, dtype)?;
    }
    group.finish();
    Ok(())
}

/// The operator on sequences of `time`. Also what a dynamic convolution costs beyond its generating product.
pub(crate) fn measure_fused(
    group: &mut Group<'_>,
    line: Line,
    time: usize,
    window: Window,
    dtype: DType,
) -> Result<()> {
    let problem = LightConvProblem::new(convolution(time, window, dtype)?);
    let device = group.device().clone();
    let weight = tensor(&problem.weight_shape(), dtype, &device)?;
    let make =
        || -> Result<[Tensor; 2]> { Ok([tokens(time, dtype, &device)?, tokens(time, dtype, &device)?]) };
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        use crate::gpu::{elements, measure, rows};
        use crate::support::sequences;
        use lightspan::wgpu::{DeviceSequences, LightConv, LightConvArgs};
        let sequences = DeviceSequences::new(gpu, &sequences(time)?)?;
        let operator = LightConv::new(gpu, problem).map(|operator| (operator, [0, 0]));
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, [x, y], _| {
            operator.bind(LightConvArgs {
                sequences: &sequences,
                x: rows(x),
                weight: elements(&weight),
                bias: None,
                history: None,
                y: rows(y),
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
    let problem = LightConvProblem::new(convolution(time, window, DType::F32)?);
    let weight = noise(HEADS * window.width());
    let mut unfused = Unfused::new(Shape::new(time, window));
    let make = || Ok([noise(TOKENS * CHANNELS), noise(TOKENS * CHANNELS)]);
    measure(group, line, problem.bytes(), make, |[x, y]| {
        unfused.light_conv(x, &weight, y);
        Ok(())
    });
    Ok(())
}
