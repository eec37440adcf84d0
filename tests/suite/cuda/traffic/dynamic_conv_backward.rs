use lightspan::cuda::{DynamicConvBackward, LaunchProfile, Limits, Traffic};
use lightspan::problem::{
    Convolution, DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted, Taps,
};
use lightspan::{DType, Device, Dropout, DropoutRate, Normalize, Sequences, Tensor, Window, ops};
use proptest::prelude::*;

use super::{assert_all_counted, profiled_launches};
use crate::support::{Numbers, config, sequences};

/// Runs a backward pass, and holds its traffic against the prediction.
pub fn dynamic_conv_backward(
    device: &Device,
    forward: DynamicConvProblem,
    wanted: DynamicConvWanted,
    sequences: &Sequences,
) -> (Vec<LaunchProfile>, Traffic) {
    let problem = DynamicConvBackwardProblem::new(forward, wanted).unwrap();
    let operator = DynamicConvBackward::new(device.cuda_gpu().unwrap(), problem).unwrap();
    let predicted = operator.traffic(sequences).unwrap();
    let conv = forward.convolution();
    let mut numbers = Numbers::new(7);
    let mut draw = |shape: &[usize], dtype| -> Tensor { numbers.draw(shape, dtype, 1.0).on(device) };
    let rows = sequences.shape().tensor(conv.channels());
    let (x, dy) = (draw(&rows, conv.dtype()), draw(&rows, conv.dtype()));
    let bias = conv.has_bias().then(|| draw(&[conv.channels()], conv.parameters()));
    let dropout = conv.dropout().map(|rate| Dropout::new(rate.get(), 7).unwrap());
    let (window, normalize) = (conv.window(), conv.normalize());
    let launches = match forward.taps() {
        Taps::Given => {
            let mut shape = sequences.shape().tensor(conv.heads());
            shape.push(window.width());
            let logits = draw(&shape, conv.parameters());
            let options = ops::ConvOptions {
                bias: bias.as_ref(),
                normalize,
                sequences: Some(sequences),
                history: None,
                dropout,
            };
            profiled_launches(device, || {
                ops::dynamic_conv_given_backward(&x, &logits, &dy, window, &options, &wanted).unwrap()
            })
        }
        Taps::Generated { query_channels, query, weight_bias } => {
            let weight = draw(&[forward.logits(), query_channels], conv.parameters());
            let query = query.map(|dtype| draw(&sequences.shape().tensor(query_channels), dtype));
            let weight_bias = weight_bias.then(|| draw(&[forward.logits()], conv.parameters()));
            let options = ops::DynamicConvOptions {
                query: query.as_ref(),
                weight_bias: weight_bias.as_ref(),
                bias: bias.as_ref(),
                normalize,
                sequences: Some(sequences),
                dropout,
                ..Default::default()
            };
            profiled_launches(device, || {
                ops::dynamic_conv_backward(&x, &weight, &dy, conv.heads(), window, &options, &wanted).unwrap()
            })
        }
        other => panic!("{other:?}"),
    };
    assert_all_counted(&launches, predicted);
    (launches, predicted)
}

pub fn normalizes() -> impl Strategy<Value = Normalize> {
    prop::sample::select(&[Normalize::None, Normalize::Softmax, Normalize::SoftmaxInRange][..])
}

proptest! {
    #![proptest_config(config(80))]

    #[test]
    fn given_logits(
        sequences in prop_oneof![sequences(1..5, 1..60), sequences(1..3, 100..300)],
        (width, dilation, left) in (1usize..140, 1usize..4, any::<prop::sample::Index>()),
        // What a block has of a row is whole sectors then, and what a warp stores whole parts of rows.
        (heads, head_channels) in (prop::sample::select(&[1usize, 2, 4][..]), prop::sample::select(&[16usize, 64, 128][..])),
        (dtype, wide, normalize) in (prop::sample::select(&DType::ALL[..]), any::<bool>(), normalizes()),
        (dropout, few) in (any::<bool>(), any::<bool>()),
        wanted in any::<[bool; 3]>(),
    ) {
        let window = Window::new(width, dilation, left.index((width - 1) * dilation + 1)).unwrap();
        let conv = Convolution::new(sequences.shape(), heads * head_channels, heads, window, dtype)
            .and_then(|conv| conv.with_parameters(if wide { DType::F32 } else { dtype }))
            .unwrap()
            .with_normalize(normalize)
            .with_dropout(dropout.then(|| DropoutRate::new(0.5).unwrap()));
        let [x, logits, wide] = wanted;
        let parameters = wide.then_some(DType::F32);
        let wanted = DynamicConvWanted { x, logits, parameters, ..DynamicConvWanted::NONE };
        let multiprocessors = if few { 2 } else { Limits::A100.multiprocessors };
        let device = Device::cuda_emulated_with(Limits { multiprocessors, ..Limits::A100 });
        dynamic_conv_backward(&device, DynamicConvProblem::given(conv).unwrap(), wanted, &sequences);
    }

    /// 8 heads and a multiple of 4 taps: rows of logits begin on a sector.
    #[test]
    fn generated_logits(
        (batch, time) in (1usize..4, 1usize..200),
        (quads, left) in (1usize..10, any::<prop::sample::Index>()),
        head_channels in prop::sample::select(&[2usize, 16, 32][..]),
        (dtype, wide, normalize) in (prop::sample::select(&DType::ALL[..]), any::<bool>(), normalizes()),
        (query, weight_bias, dropout) in (prop::option::of(1usize..5), any::<bool>(), any::<bool>()),
        wanted in any::<[bool; 5]>(),
    ) {
        let sequences = Sequences::batch(batch, time).unwrap();
        let window = Window::new(4 * quads, 1, left.index(4 * quads)).unwrap();
        let conv = Convolution::new(sequences.shape(), 8 * head_channels, 8, window, dtype)
            .and_then(|conv| conv.with_parameters(if wide { DType::F32 } else { dtype }))
            .unwrap()
            .with_normalize(normalize)
            .with_bias(true)
            .with_dropout(dropout.then(|| DropoutRate::new(0.5).unwrap()));
        let mut forward = DynamicConvProblem::generated(conv).unwrap().with_weight_bias(weight_bias).unwrap();
        if let Some(sixteens) = query {
            forward = forward.with_query(16 * sixteens, dtype).unwrap();
        }
        let [x, weight, weight_bias, query, bias] = wanted;
        let wanted = DynamicConvWanted { x, weight, weight_bias, query, bias, ..DynamicConvWanted::NONE };
        dynamic_conv_backward(&Device::cuda_emulated(), forward, wanted, &sequences);
    }
}
