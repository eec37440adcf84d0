//! The backward pass, and both passes together: what a step of training costs.
//!
//! On tensors, as they are trained with: times include making the gradients, and on a GPU they are those of the clock on the
//! wall, until all calls are done.

use criterion::Criterion;
use lightspan::ops::{
    self, AttentionBackwardTensors, AttentionKind, AttentionOptions, AttentionWanted, DynamicConvWanted,
    LightConvWanted, SpanConvTensors, SpanConvWanted,
};
use lightspan::problem::{
    AttentionBackwardProblem, AttentionProblem, DynamicConvBackwardProblem, DynamicConvProblem,
    LightConvBackwardProblem, LightConvProblem, Mask, SpanConvBackwardProblem, SpanConvProblem,
};
use lightspan::{Backend, DType, Device, Error, Result, Tensor, Window};

use crate::support::{
    Group, LENGTHS, Line, Size, TIME, WIDTH, WIDTHS, left_out, measure_copy, measure_until_done, tensor,
};

/// A forward and a backward pass of each operator, with all gradients, on sequences of every length.
pub(crate) fn by_length(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "training_by_length", device);
    for time in LENGTHS {
        let (size, dtype) = (Size::of(time), DType::F32);
        measure_copy(&mut group, time, size.bytes(dtype));
        light_conv(&mut group, size, dtype)?;
        dynamic_conv(&mut group, size, dtype)?;
        span_conv(&mut group, size, dtype)?;
        let reach = Mask::from(Window::same(WIDTH)?);
        for (name, kind, mask) in [
            ("naive attention", AttentionKind::Naive, Mask::FULL),
            ("fused attention", AttentionKind::Fused, Mask::FULL),
            ("local attention", AttentionKind::Fused, reach),
        ] {
            attention(&mut group, Line::new(name, time), (size, dtype), kind, mask)?;
        }
    }
    group.finish();
    Ok(())
}

/// The gradients of a light convolution one by one, beside its forward pass. That of the weight reads as much and multiplies
/// as much as the forward pass does.
pub(crate) fn light_conv_by_width(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "light_conv_backward_by_width", device);
    let (size, dtype) = (Size::of(TIME), DType::F32);
    measure_copy(&mut group, "32 bits", size.bytes(dtype));
    for width in WIDTHS {
        let window = Window::same(width)?;
        let problem = LightConvProblem::new(size.convolution(window, dtype)?);
        let weight = tensor(&problem.weight_shape(), dtype, device)?;
        let make =
            || -> Result<[Tensor; 2]> { Ok([size.tokens(dtype, device)?, size.tokens(dtype, device)?]) };
        measure_until_done(&mut group, Line::new("forward", width), problem.bytes(), make, |[x, y]| {
            ops::light_conv_into(y, x, &weight, window, &Default::default())
        });
        let x = LightConvWanted { x: true, ..LightConvWanted::NONE };
        let dweight = LightConvWanted { weight: true, ..LightConvWanted::NONE };
        for (name, wanted) in [("dx", x), ("dweight", dweight)] {
            let bytes = LightConvBackwardProblem::new(problem, wanted)?.bytes();
            measure_until_done(&mut group, Line::new(name, width), bytes, make, |[x, dy]| {
                ops::light_conv_backward(x, &weight, dy, window, &Default::default(), &wanted).map(drop)
            });
        }
    }
    group.finish();
    Ok(())
}

fn light_conv(group: &mut Group<'_>, size: Size, dtype: DType) -> Result<()> {
    let (window, device) = (Window::same(WIDTH)?, group.device().clone());
    let problem = LightConvProblem::new(size.convolution(window, dtype)?);
    let bytes = problem.bytes() + LightConvBackwardProblem::new(problem, LightConvWanted::ALL)?.bytes();
    let weight = tensor(&problem.weight_shape(), dtype, &device)?;
    let make = || tokens::<3>(size, dtype, &device);
    measure_until_done(group, Line::new("light_conv", size.time), bytes, make, |[x, y, dy]| {
        ops::light_conv_into(y, x, &weight, window, &Default::default())?;
        let wanted = LightConvWanted::ALL;
        ops::light_conv_backward(x, &weight, dy, window, &Default::default(), &wanted).map(drop)
    });
    Ok(())
}

fn dynamic_conv(group: &mut Group<'_>, size: Size, dtype: DType) -> Result<()> {
    let (window, device, heads) = (Window::same(WIDTH)?, group.device().clone(), size.heads);
    let problem = DynamicConvProblem::generated(size.convolution(window, dtype)?)?;
    let bytes = problem.bytes() + DynamicConvBackwardProblem::new(problem, DynamicConvWanted::ALL)?.bytes();
    let weight = tensor(&[problem.logits(), size.channels], dtype, &device)?;
    let make = || tokens::<3>(size, dtype, &device);
    measure_until_done(group, Line::new("dynamic_conv", size.time), bytes, make, |[x, y, dy]| {
        ops::dynamic_conv_into(y, x, &weight, heads, window, &Default::default())?;
        let wanted = DynamicConvWanted::ALL;
        ops::dynamic_conv_backward(x, &weight, dy, heads, window, &Default::default(), &wanted).map(drop)
    });
    Ok(())
}

fn span_conv(group: &mut Group<'_>, size: Size, dtype: DType) -> Result<()> {
    let (window, device) = (Window::same(WIDTH)?, group.device().clone());
    let Size { channels, heads, .. } = size;
    let problem = SpanConvProblem::new(channels, size.convolution(window, dtype)?)?;
    let bytes = problem.bytes() + SpanConvBackwardProblem::new(problem, SpanConvWanted::ALL)?.bytes();
    let depthwise = tensor(&[channels, WIDTH], dtype, &device)?;
    let pointwise = tensor(&[channels, channels], dtype, &device)?;
    let weight = tensor(&[heads * WIDTH, channels], dtype, &device)?;
    let make = || tokens::<5>(size, dtype, &device);
    measure_until_done(group, Line::new("span_conv", size.time), bytes, make, |[x, query, value, y, dy]| {
        let tensors = SpanConvTensors {
            x,
            query: (&*query).into(),
            value: (&*value).into(),
            depthwise: &depthwise,
            pointwise: &pointwise,
            weight: &weight,
        };
        ops::span_conv_into(y, &tensors, heads, window, &Default::default())?;
        let wanted = SpanConvWanted::ALL;
        ops::span_conv_backward(&tensors, dy, heads, window, &Default::default(), &wanted).map(drop)
    });
    Ok(())
}

fn attention(
    group: &mut Group<'_>,
    line: Line,
    (size, dtype): (Size, DType),
    kind: AttentionKind,
    mask: Mask,
) -> Result<()> {
    let (shape, heads, device) = (size.sequences()?.shape(), size.heads, group.device().clone());
    let problem = AttentionProblem::new(shape, shape, heads, size.channels / heads, dtype)?.with_mask(mask);
    let bytes = problem.bytes() + AttentionBackwardProblem::new(problem, AttentionWanted::ALL).bytes();
    let options = AttentionOptions { kind, mask, ..Default::default() };
    let make = || tokens::<5>(size, dtype, &device);
    let run = |[q, k, v, y, dy]: &mut [Tensor; 5]| {
        ops::attention_into(y, &*q, &*k, &*v, heads, &options)?;
        let tensors = AttentionBackwardTensors { q, k, v, y, dy };
        ops::attention_backward(&tensors, heads, &options, &AttentionWanted::ALL).map(drop)
    };
    if kind == AttentionKind::Naive && device.backend() != Backend::Cpu {
        // Its scores may be more than the device allows: one call says whether they are.
        let tried = make().and_then(|mut tensors| run(&mut tensors)).and_then(|()| device.synchronize());
        if let Err(error @ (Error::Limit { .. } | Error::OutOfMemory { .. })) = tried {
            left_out(&line, error);
            return Ok(());
        }
    }
    measure_until_done(group, line, bytes, make, run);
    Ok(())
}

/// N tensors of tokens.
fn tokens<const N: usize>(size: Size, dtype: DType, device: &Device) -> Result<[Tensor; N]> {
    let made: Result<Vec<Tensor>> = (0..N).map(|_| size.tokens(dtype, device)).collect();
    Ok(made?.try_into().expect("as many as were made"))
}
