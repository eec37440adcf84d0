//! Gradients, each by itself.

use lightspan::problem::{
    DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted, LightConvBackwardProblem,
    LightConvProblem, LightConvWanted,
};
use lightspan::{DType, Device, Result, ops};

use crate::{Args, convolution, numbers, profiled, row};

/// The gradient of a light convolution's weight.
pub(crate) fn dweight(args: &Args, width: usize, dtype: DType, device: &Device) -> Result<[String; 10]> {
    let conv = convolution(args, width, dtype)?;
    let wanted = LightConvWanted { weight: true, ..LightConvWanted::NONE };
    let problem = LightConvBackwardProblem::new(LightConvProblem::new(conv), wanted)?;
    let shape = [args.batch, args.time, args.channels];
    let (x, dy) = (numbers(&shape, dtype, device)?, numbers(&shape, dtype, device)?);
    let weight = numbers(&problem.forward().weight_shape(), dtype, device)?;
    let call = || ops::light_conv_backward(&x, &weight, &dy, conv.window(), &Default::default(), &wanted);
    let launches = profiled(device, call)?;
    let asked = [problem.flops() / 2, shape.iter().product::<usize>() as u64, problem.bytes()];
    Ok(row("light_conv, dweight", dtype, &width.to_string(), &launches, asked))
}

/// The gradient of a dynamic convolution's logits.
pub(crate) fn dlogits(args: &Args, width: usize, dtype: DType, device: &Device) -> Result<[String; 10]> {
    let wanted = DynamicConvWanted { logits: true, ..DynamicConvWanted::NONE };
    dynamic_conv(args, ("dynamic_conv, dlogits", wanted), width, dtype, device)
}

/// The gradient of a dynamic convolution's tokens, with logits that are given.
pub(crate) fn dx(args: &Args, width: usize, dtype: DType, device: &Device) -> Result<[String; 10]> {
    let wanted = DynamicConvWanted { x: true, ..DynamicConvWanted::NONE };
    dynamic_conv(args, ("dynamic_conv, dx", wanted), width, dtype, device)
}

/// Logits are in f32, as they are where they are generated.
fn dynamic_conv(
    args: &Args,
    (name, wanted): (&str, DynamicConvWanted),
    width: usize,
    dtype: DType,
    device: &Device,
) -> Result<[String; 10]> {
    let conv = convolution(args, width, dtype)?.with_parameters(DType::F32)?;
    let problem = DynamicConvBackwardProblem::new(DynamicConvProblem::given(conv)?, wanted)?;
    let shape = [args.batch, args.time, args.channels];
    let (x, dy) = (numbers(&shape, dtype, device)?, numbers(&shape, dtype, device)?);
    let logits = numbers(&[args.batch, args.time, args.heads, width], DType::F32, device)?;
    let options = Default::default();
    let call = || ops::dynamic_conv_given_backward(&x, &logits, &dy, conv.window(), &options, &wanted);
    let launches = profiled(device, call)?;
    let asked = [problem.flops() / 2, shape.iter().product::<usize>() as u64, problem.bytes()];
    Ok(row(name, dtype, &width.to_string(), &launches, asked))
}
