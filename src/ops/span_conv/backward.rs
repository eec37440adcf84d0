use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::ops::span_conv::{SpanConvOptions, SpanConvTensors, describe};
use crate::problem::{SpanConvBackwardProblem, SpanConvWanted};
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{Dropout, Result, Sequences, Tensor, Window};

/// The gradients of a [`span_conv`](crate::ops::span_conv): those that are wanted, of the inputs that there are.
#[derive(Debug, Default)]
pub struct SpanConvGradients {
    /// As x.
    pub x: Option<Tensor>,
    /// As the query.
    pub query: Option<Tensor>,
    /// `[C, K]`.
    pub depthwise: Option<Tensor>,
    /// `[A, C]`.
    pub pointwise: Option<Tensor>,
    /// `[A]`.
    pub key_bias: Option<Tensor>,
    /// As the values.
    pub value: Option<Tensor>,
    /// Of the generator, `[H K, A]`.
    pub weight: Option<Tensor>,
    /// Of the generator bias, `[H K]`.
    pub weight_bias: Option<Tensor>,
    /// `[A]`.
    pub bias: Option<Tensor>,
}

/// The gradients of [`span_conv`](crate::ops::span_conv) from dy, that of its output, of the shape and type of the values.
///
/// Those of the dynamic convolution of the values, whose query z is computed again
/// ([`dynamic_conv_backward`](crate::ops::dynamic_conv_backward)); the gradient of z goes, in f32, into those of the key
/// ([`span_key_backward`](crate::ops::span_key_backward)). Only what is `wanted` is computed; the arguments before are those of
/// the forward pass, of which nothing else is kept. The same call gives the same bits each time on one device.
///
/// # Errors
///
/// As [`span_conv`](crate::ops::span_conv), where dy does not fit, and for a call with history.
pub fn span_conv_backward(
    tensors: &SpanConvTensors<'_>,
    dy: &Tensor,
    heads: usize,
    window: Window,
    options: &SpanConvOptions<'_>,
    wanted: &SpanConvWanted,
) -> Result<SpanConvGradients> {
    let (forward, sequences) = describe(tensors, heads, window, options)?;
    let problem = SpanConvBackwardProblem::new(forward, *wanted)?;
    let SpanConvTensors { x, query, value, depthwise, pointwise, weight } = *tensors;
    check::operand("dy", dy, x, x.dtype(), &value.shape())?;
    let (key, conv, dtype) = (problem.key().wanted(), problem.conv().wanted(), problem.key().parameters());
    let outputs = forward.key().outputs();
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(x, |gpu| wgpu::SpanConvBackward::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(x, |gpu| cuda::SpanConvBackward::new(gpu, problem))?;
    let mut gradients = SpanConvGradients {
        x: check::gradient(key.x, x.shape(), x.dtype(), x)?,
        query: check::gradient(key.query, &query.shape(), x.dtype(), x)?,
        depthwise: check::gradient(key.depthwise, depthwise.shape(), dtype, x)?,
        pointwise: check::gradient(key.pointwise, pointwise.shape(), dtype, x)?,
        key_bias: check::gradient(key.key_bias, &[outputs], dtype, x)?,
        value: check::gradient(conv.x, &value.shape(), x.dtype(), x)?,
        weight: check::gradient(conv.weight, weight.shape(), dtype, x)?,
        weight_bias: check::gradient(conv.weight_bias, &[forward.conv().logits()], dtype, x)?,
        bias: check::gradient(conv.bias, &[outputs], dtype, x)?,
    };
    launch(&problem, &sequences, tensors, dy, options, &mut gradients)?;
    Ok(gradients)
}

fn launch(
    problem: &SpanConvBackwardProblem,
    sequences: &Sequences,
    tensors: &SpanConvTensors<'_>,
    dy: &Tensor,
    options: &SpanConvOptions<'_>,
    gradients: &mut SpanConvGradients,
) -> Result<()> {
    let seed = options.dropout.map(Dropout::seed);
    match tensors.x.device().room() {
        Room::Cpu(scratch) => {
            let operator = cpu::SpanConvBackward::new(*problem);
            let args = cpu::SpanConvBackwardArgs {
                sequences,
                x: Rows::contiguous(tensors.x.cpu()),
                query: tensors.query.cpu(),
                value: tensors.value.cpu(),
                depthwise: tensors.depthwise.cpu(),
                pointwise: tensors.pointwise.cpu(),
                key_bias: options.key_bias.map(Tensor::cpu),
                weight: tensors.weight.cpu(),
                weight_bias: options.weight_bias.map(Tensor::cpu),
                seed,
                dy: Rows::contiguous(dy.cpu()),
                dx: gradients.x.as_mut().map(|dx| RowsMut::contiguous(dx.cpu_mut())),
                dquery: gradients.query.as_mut().map(|dquery| RowsMut::contiguous(dquery.cpu_mut())),
                ddepthwise: gradients.depthwise.as_mut().map(Tensor::cpu_mut),
                dpointwise: gradients.pointwise.as_mut().map(Tensor::cpu_mut),
                dkey_bias: gradients.key_bias.as_mut().map(Tensor::cpu_mut),
                dvalue: gradients.value.as_mut().map(|dvalue| RowsMut::contiguous(dvalue.cpu_mut())),
                dweight: gradients.weight.as_mut().map(Tensor::cpu_mut),
                dweight_bias: gradients.weight_bias.as_mut().map(Tensor::cpu_mut),
                dbias: gradients.bias.as_mut().map(Tensor::cpu_mut),
            };
            scratch.with(operator.scratch_len(), |scratch| operator.run(args, scratch))
        }
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::SpanConvBackward::new(gpu, *problem)?;
            let args = wgpu::SpanConvBackwardArgs {
                sequences: &gpu.sequences(sequences)?,
                x: wgpu::Rows::contiguous(tensors.x.buffer()),
                query: tensors.query.wgpu(),
                value: tensors.value.wgpu(),
                depthwise: tensors.depthwise.buffer().into(),
                pointwise: tensors.pointwise.buffer().into(),
                key_bias: options.key_bias.map(|bias| bias.buffer().into()),
                weight: tensors.weight.buffer().into(),
                weight_bias: options.weight_bias.map(|bias| bias.buffer().into()),
                seed,
                dy: wgpu::Rows::contiguous(dy.buffer()),
                dx: gradients.x.as_ref().map(|dx| wgpu::Rows::contiguous(dx.buffer())),
                dquery: gradients.query.as_ref().map(|dquery| wgpu::Rows::contiguous(dquery.buffer())),
                ddepthwise: gradients.depthwise.as_ref().map(|depthwise| depthwise.buffer().into()),
                dpointwise: gradients.pointwise.as_ref().map(|pointwise| pointwise.buffer().into()),
                dkey_bias: gradients.key_bias.as_ref().map(|bias| bias.buffer().into()),
                dvalue: gradients.value.as_ref().map(|dvalue| wgpu::Rows::contiguous(dvalue.buffer())),
                dweight: gradients.weight.as_ref().map(|weight| weight.buffer().into()),
                dweight_bias: gradients.weight_bias.as_ref().map(|bias| bias.buffer().into()),
                dbias: gradients.bias.as_ref().map(|bias| bias.buffer().into()),
            };
            gpu.run(operator.scratch_len(), |scratch| operator.bind(args, scratch))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => {
            let operator = cuda::SpanConvBackward::new(gpu, *problem)?;
            fn rows(tensor: &mut Option<Tensor>) -> Option<cuda::RowsMut<'_>> {
                tensor.as_mut().map(|tensor| cuda::RowsMut::contiguous(tensor.on_cuda_mut()))
            }
            fn elements(tensor: &mut Option<Tensor>) -> Option<cuda::ElementsMut<'_>> {
                tensor.as_mut().map(Tensor::on_cuda_mut)
            }
            let args = cuda::SpanConvBackwardArgs {
                sequences: &gpu.sequences(sequences)?,
                x: cuda::Rows::contiguous(tensors.x.on_cuda()),
                query: tensors.query.cuda(),
                value: tensors.value.cuda(),
                depthwise: tensors.depthwise.on_cuda(),
                pointwise: tensors.pointwise.on_cuda(),
                key_bias: options.key_bias.map(Tensor::on_cuda),
                weight: tensors.weight.on_cuda(),
                weight_bias: options.weight_bias.map(Tensor::on_cuda),
                seed,
                dy: cuda::Rows::contiguous(dy.on_cuda()),
                dx: rows(&mut gradients.x),
                dquery: rows(&mut gradients.query),
                ddepthwise: elements(&mut gradients.depthwise),
                dpointwise: elements(&mut gradients.pointwise),
                dkey_bias: elements(&mut gradients.key_bias),
                dvalue: rows(&mut gradients.value),
                dweight: elements(&mut gradients.weight),
                dweight_bias: elements(&mut gradients.weight_bias),
                dbias: elements(&mut gradients.bias),
            };
            gpu.with_scratch([operator.scratch_len(), 0], |[scratch, _]| operator.launch(args, scratch))
        }
    }
}
