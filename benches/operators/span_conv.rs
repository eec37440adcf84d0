use lightspan::problem::SpanConvProblem;
use lightspan::{DType, Result, Tensor, Window, ops};

use crate::support::{CHANNELS, Group, HEADS, Line, Size, TOKENS, WIDTH, measure, noise, tensor};
use crate::unfused::{Shape, SpanConv, Unfused};

/// The operator and its unfused composition on sequences of `time`.
pub(crate) fn by_length(group: &mut Group<'_>, size: Size, dtype: DType) -> Result<()> {
    let window = Window::same(WIDTH)?;
    measure_fused(group, size, window, dtype)?;
    measure_unfused(group, size.time, window)
}

/// As many channels A in the key and the values as C in x.
fn problem(size: Size, window: Window, dtype: DType) -> Result<SpanConvProblem> {
    SpanConvProblem::new(size.channels, size.convolution(window, dtype)?)
}

fn measure_fused(group: &mut Group<'_>, size: Size, window: Window, dtype: DType) -> Result<()> {
    let line = Line::new("span_conv", size.time);
    let Size { channels, heads, .. } = size;
    let device = group.device().clone();
    let depthwise = tensor(&[channels, WIDTH], dtype, &device)?;
    let pointwise = tensor(&[channels, channels], dtype, &device)?;
    let weight = tensor(&[heads * WIDTH, channels], dtype, &device)?;
    let make = || -> Result<[Tensor; 4]> {
        let tokens = || size.tokens(dtype, &device);
        Ok([tokens()?, tokens()?, tokens()?, tokens()?])
    };
    let problem = problem(size, window, dtype)?;
    let bytes = problem.bytes();
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        use crate::gpu::{elements, measure, rows};
        use lightspan::wgpu::{DeviceSequences, SpanConv, SpanConvArgs};
        let sequences = DeviceSequences::new(gpu, &size.sequences()?)?;
        let operator = SpanConv::new(gpu, problem).map(|operator| {
            let scratch = operator.scratch_len();
            (operator, scratch)
        });
        return measure(
            group,
            gpu,
            (line, bytes),
            operator,
            make,
            |operator, [x, query, value, y], scratch| {
                let args = SpanConvArgs {
                    sequences: &sequences,
                    x: rows(x),
                    query: rows(query),
                    value: rows(value),
                    depthwise: elements(&depthwise),
                    pointwise: elements(&pointwise),
                    key_bias: None,
                    weight: elements(&weight),
                    weight_bias: None,
                    bias: None,
                    history: None,
                    value_history: None,
                    seed: None,
                    y: rows(y),
                };
                operator.bind(args, scratch)
            },
        );
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        use crate::cuda::{Scratch, elements, measure, rows, rows_mut};
        use lightspan::cuda::{DeviceSequences, SpanConv, SpanConvArgs};
        let sequences = DeviceSequences::new(gpu, &size.sequences()?)?;
        let operator = SpanConv::new(gpu, problem);
        let lengths = operator.as_ref().map_or([0; 2], SpanConv::scratch_len);
        let mut scratch = lengths.map(|len| Scratch::new(&device, len));
        return measure(group, gpu, (line, bytes), operator, make, |operator, [x, query, value, y]| {
            let args = SpanConvArgs {
                sequences: &sequences,
                x: rows(x),
                query: rows(query),
                value: rows(value),
                depthwise: elements(&depthwise),
                pointwise: elements(&pointwise),
                key_bias: None,
                weight: elements(&weight),
                weight_bias: None,
                bias: None,
                history: None,
                value_history: None,
                seed: None,
                y: rows_mut(y),
            };
            let [key, logits] = &mut scratch;
            operator.launch(args, [key.get()?, logits.get()?])
        });
    }
    measure(group, line, bytes, make, |[x, query, value, y]| {
        let tensors = ops::SpanConvTensors {
            x,
            query: (&*query).into(),
            value: (&*value).into(),
            depthwise: &depthwise,
            pointwise: &pointwise,
            weight: &weight,
        };
        ops::span_conv_into(y, &tensors, heads, window, &Default::default())
    });
    Ok(())
}

fn measure_unfused(group: &mut Group<'_>, time: usize, window: Window) -> Result<()> {
    if !group.has_unfused() {
        return Ok(());
    }
    let depthwise = noise(CHANNELS * WIDTH);
    let pointwise = noise(CHANNELS * CHANNELS);
    let weight = noise(HEADS * WIDTH * CHANNELS);
    let mut unfused = Unfused::new(Shape::new(time, window));
    let make = || Ok([(); 4].map(|()| noise(TOKENS * CHANNELS)));
    let bytes = problem(Size::of(time), window, DType::F32)?.bytes();
    measure(group, Line::new("span_conv unfused", time), bytes, make, |[x, query, value, y]| {
        let inputs =
            SpanConv { x, query, value, depthwise: &depthwise, pointwise: &pointwise, weight: &weight };
        unfused.span_conv(&inputs, y)
    });
    Ok(())
}
