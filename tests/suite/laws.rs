//! What must hold whatever the reference says.

mod backward;
mod not_finite;

use lightspan::{DType, Device, Normalize, Sequences, Tensor, Window, ops};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::dynamic_conv::Generator;
use crate::support::{ConvCase, Numbers, Values, config, conv_case, devices, long_conv_case, same_bits};
use crate::{dynamic_conv, light_conv, span_conv};

/// A drawn call of any of the convolutions.
enum Call {
    Light(Box<light_conv::Call>),
    Dynamic(Box<dynamic_conv::Call>),
    Span(Box<span_conv::Call>),
}

const KINDS: usize = 4;

impl Call {
    fn draw(kind: usize, case: &ConvCase) -> Self {
        match kind {
            0 => Call::Light(Box::new(light_conv::Call::draw(case))),
            1 => Call::Dynamic(Box::new(dynamic_conv::Call::draw(case, Generator::Given))),
            2 => {
                let generator = Generator::Own { weight_bias: true };
                Call::Dynamic(Box::new(dynamic_conv::Call::draw(case, generator)))
            }
            _ => Call::Span(Box::new(span_conv::Call::draw(case, 7))),
        }
    }

    fn run(&self, device: &Device) -> Tensor {
        match self {
            Call::Light(call) => call.run(device),
            Call::Dynamic(call) => call.run(device),
            Call::Span(call) => call.run(device),
        }
    }

    /// All inputs that have a row for each token.
    fn tokens(&mut self) -> Vec<&mut Values> {
        match self {
            Call::Light(call) => vec![&mut call.x],
            Call::Dynamic(call) => match call.problem.taps() {
                lightspan::problem::Taps::Given => vec![&mut call.x, &mut call.weight],
                _ => vec![&mut call.x].into_iter().chain(&mut call.query).collect(),
            },
            Call::Span(call) => vec![&mut call.x, &mut call.query, &mut call.value],
        }
    }

    /// Puts NaN and infinity into a range of rows.
    fn spoil(&mut self, sequences: &Sequences, rows: std::ops::Range<usize>) {
        for values in self.tokens() {
            let width = values.data.len() / sequences.shape().tokens().max(1);
            let data = &mut values.data[rows.start * width..rows.end * width];
            for (i, value) in data.iter_mut().enumerate() {
                *value = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][i % 3];
            }
        }
    }
}

fn rows_of(tensor: &Tensor, channels: usize, rows: std::ops::Range<usize>) -> Vec<u32> {
    tensor.to_f32().unwrap()[rows.start * channels..rows.end * channels].iter().map(|y| y.to_bits()).collect()
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn a_sequence_never_sees_another(
        kind in 0..KINDS,
        case in prop_oneof![conv_case(), long_conv_case()],
        spoiled in any::<prop::sample::Index>(),
    ) {
        let sequences = case.sequences.as_slice();
        if sequences.is_empty() {
            return Ok(());
        }
        let spoiled = spoiled.index(sequences.len());
        let (clean, mut other) = (Call::draw(kind, &case), Call::draw(kind, &case));
        let rows = sequences[spoiled].first..sequences[spoiled].first + sequences[spoiled].length;
        other.spoil(&case.sequences, rows);
        for device in devices() {
            let (clean, other) = (clean.run(&device), other.run(&device));
            for (s, sequence) in sequences.iter().enumerate() {
                let rows = sequence.first..sequence.first + sequence.length + sequence.padding;
                let rows = if s == spoiled { rows.start + sequence.length..rows.end } else { rows };
                prop_assert_eq!(
                    rows_of(&clean, case.channels(), rows.clone()),
                    rows_of(&other, case.channels(), rows)
                );
            }
        }
    }

    #[test]
    fn a_causal_output_never_sees_the_future(
        kind in 0..KINDS,
        case in prop_oneof![conv_case(), long_conv_case()].prop_filter("causal", |c| c.window.is_causal()),
        from in any::<prop::sample::Index>(),
    ) {
        let (clean, mut other) = (Call::draw(kind, &case), Call::draw(kind, &case));
        let from = |length: usize| from.index(length + 1);
        for sequence in case.sequences.as_slice() {
            let rows = sequence.first + from(sequence.length)..sequence.first + sequence.length;
            other.spoil(&case.sequences, rows);
        }
        for device in devices() {
            let (clean, other) = (clean.run(&device), other.run(&device));
            for sequence in case.sequences.as_slice() {
                let rows = sequence.first..sequence.first + from(sequence.length);
                prop_assert_eq!(
                    rows_of(&clean, case.channels(), rows.clone()),
                    rows_of(&other, case.channels(), rows)
                );
            }
        }
    }

    /// Weights that sum to one leave a constant as it is: away from the edges, or wherever a tap is in range if they
    /// are normalised over those.
    #[test]
    fn a_constant_stays_constant_under_softmax(
        kind in 0..KINDS,
        mut case in prop_oneof![conv_case(), long_conv_case()],
        in_range in any::<bool>(),
        constant in -3.0f64..3.0,
    ) {
        case.normalize = if in_range { Normalize::SoftmaxInRange } else { Normalize::Softmax };
        (case.bias, case.history, case.dropout) = (false, false, None);
        case.sequences = case.sequences.clone().after(&vec![0; case.sequences.as_slice().len()]).unwrap();
        let mut call = Call::draw(kind, &case);
        let constant = case.dtype.round(constant);
        match &mut call {
            Call::Light(call) => call.x.data.fill(constant),
            Call::Dynamic(call) => call.x.data.fill(constant),
            Call::Span(call) => call.value.data.fill(constant),
        }
        let allowed = constant.abs() * (case.dtype.unit_roundoff() + 32.0 * DType::F32.unit_roundoff());
        for device in devices() {
            let y = call.run(&device).to_f32().unwrap();
            for sequence in case.sequences.as_slice() {
                for t in 0..sequence.length {
                    let taps = case.window.taps_in_range(t, sequence.length, 0).len();
                    if taps == case.window.width() || in_range && taps > 0 {
                        for y in &y[(sequence.first + t) * case.channels()..][..case.channels()] {
                            prop_assert!((f64::from(*y) - constant).abs() <= allowed, "{y}, not {constant}");
                        }
                    }
                }
            }
        }
    }

    /// Zeros before a sequence are what a window reads there anyway.
    #[test]
    fn shifting_the_input_shifts_the_output(
        kind in 0..KINDS,
        mut case in conv_case(),
        time in 1usize..80,
        shift in 1usize..70,
        raw in any::<bool>(),
    ) {
        case.normalize = if raw { Normalize::None } else { Normalize::Softmax };
        (case.history, case.bias, case.dropout) = (false, false, None);
        (case.dtype, case.parameters) = (DType::F32, DType::F32);
        case.sequences = Sequences::batch(1, time).unwrap();
        let plain = Call::draw(kind, &case);
        let mut shifted = Call::draw(kind, &case);
        case.sequences = Sequences::batch(1, time + shift).unwrap();
        for values in shifted.tokens() {
            let width = values.data.len() / time;
            values.data.splice(0..0, vec![0.0; shift * width]);
            values.shape[1] += shift;
        }
        match &mut shifted {
            Call::Light(call) => call.case = case.clone(),
            Call::Dynamic(call) => call.case = case.clone(),
            Call::Span(call) => call.case = case.clone(),
        }
        for device in devices() {
            let (y, later) = (plain.run(&device).to_f32().unwrap(), shifted.run(&device).to_f32().unwrap());
            let largest = y.iter().fold(1.0f32, |largest, y| largest.max(y.abs()));
            for (a, b) in y.iter().zip(&later[shift * case.channels()..]) {
                prop_assert!((a - b).abs() <= 1e-4 * largest, "{a} or {b}");
            }
        }
    }

    /// Feeding sequences in chunks of any sizes, with what went by before as history, gives what feeding them whole
    /// does.
    #[test]
    fn chunks_equal_the_whole(
        kind in 0..3usize,
        case in conv_case().prop_filter("causal", |case| case.window.is_causal()),
        chunks in vec(vec(0usize..20, 3), 1..5),
    ) {
        // One list of chunk sizes a sequence, in f32 so that nothing but the order of sums may differ.
        let chunks: Vec<Vec<usize>> = (0..3).map(|step| chunks.iter().map(|sizes| sizes[step]).collect()).collect();
        for device in devices() {
            let fed = Fed { device: &device, case: &case, kind };
            let lengths: Vec<usize> =
                (0..chunks[0].len()).map(|s| chunks.iter().map(|sizes| sizes[s]).sum()).collect();
            let whole = fed.run(std::slice::from_ref(&lengths));
            let parts = fed.run(&chunks);
            let largest = whole.iter().flatten().fold(1.0f32, |largest, y| largest.max(y.abs()));
            for (whole, parts) in whole.iter().zip(&parts) {
                prop_assert_eq!(whole.len(), parts.len());
                for (a, b) in whole.iter().zip(parts) {
                    prop_assert!((a - b).abs() <= 1e-4 * largest, "{a} or {b}");
                }
            }
        }
    }
}

/// Sequences that are fed to a convolution bit by bit.
struct Fed<'a> {
    device: &'a Device,
    case: &'a ConvCase,
    kind: usize,
}

impl Fed<'_> {
    /// The outputs of each sequence, fed `chunks[step][sequence]` tokens at each step.
    fn run(&self, chunks: &[Vec<usize>]) -> Vec<Vec<f32>> {
        let (window, channels, count) = (self.case.window, self.case.channels(), chunks[0].len());
        let (heads, width) = (self.case.heads, window.width());
        let mut numbers = Numbers::new(self.case.seed);
        let mut draw = |shape: &[usize]| numbers.draw(shape, DType::F32, 1.0);
        let light = draw(&[heads, width]).on(self.device);
        // Logits near one: where they are large, a softmax makes much of a last bit.
        let mut layer = |outputs, inputs: usize| {
            let mut values = draw(&[outputs, inputs]);
            values.data.iter_mut().for_each(|w| *w = f64::from((*w / (inputs as f64).sqrt()) as f32));
            values
        };
        let generator = layer(heads * width, channels).on(self.device);
        let [depthwise, pointwise] = [layer(channels, width), layer(channels, channels)];
        let [depthwise, pointwise] = [depthwise.on(self.device), pointwise.on(self.device)];

        let zeros = [count, window.reach(), channels];
        let mut history = Tensor::zeros(&zeros, DType::F32, self.device).unwrap();
        let mut past = vec![0; count];
        let mut outputs = vec![vec![]; count];
        for lengths in chunks {
            let ends = lengths.iter().scan(0, |end, length| {
                *end += length;
                Some(*end)
            });
            let offsets: Vec<usize> = std::iter::once(0).chain(ends).collect();
            let sequences = Sequences::packed(&offsets).unwrap().after(&past).unwrap();
            // A token's numbers depend on its place in its sequence, and on nothing else.
            let x: Vec<f64> = (0..count)
                .flat_map(|s| (past[s]..past[s] + lengths[s]).map(move |t| (s * 1000 + t) as u64))
                .flat_map(|token| Numbers::new(token).draw(&[channels], DType::F32, 1.0).data)
                .collect();
            let x = Values { data: x, shape: sequences.shape().tensor(channels), dtype: DType::F32 };
            let x = x.on(self.device);
            let (normalize, sequences) = (self.case.normalize, &sequences);
            let (some_history, some_sequences) = (Some(&history), Some(sequences));
            let y = match self.kind {
                0 => {
                    let options = ops::ConvOptions {
                        normalize,
                        sequences: some_sequences,
                        history: some_history,
                        ..Default::default()
                    };
                    ops::light_conv(&x, &light, window, &options)
                }
                1 => {
                    let options = ops::DynamicConvOptions {
                        normalize,
                        sequences: some_sequences,
                        history: some_history,
                        ..Default::default()
                    };
                    ops::dynamic_conv(&x, &generator, heads, window, &options)
                }
                _ => {
                    let tensors = ops::SpanConvTensors {
                        x: &x,
                        query: (&x).into(),
                        value: (&x).into(),
                        depthwise: &depthwise,
                        pointwise: &pointwise,
                        weight: &generator,
                    };
                    let options = ops::SpanConvOptions {
                        normalize,
                        sequences: some_sequences,
                        history: Some(ops::SpanConvHistory { x: &history, value: &history }),
                        ..Default::default()
                    };
                    ops::span_conv(&tensors, heads, window, &options)
                }
            };
            let y = y.unwrap().to_f32().unwrap();
            for (output, span) in outputs.iter_mut().zip(offsets.windows(2)) {
                output.extend(&y[span[0] * channels..span[1] * channels]);
            }
            history = ops::history(&x, &history, window, some_sequences).unwrap();
            past = sequences.gone_by();
        }
        outputs
    }
}

/// Dilating a window as far as it is dilated already changes nothing, also where the left padding is no whole number of
/// taps.
#[test]
fn a_window_dilated_as_it_is_stays_as_it_is() {
    for (width, dilation) in (1..6).flat_map(|width| (1..5).map(move |dilation| (width, dilation))) {
        for left in 0..=(width - 1) * dilation {
            let window = Window::new(width, dilation, left).unwrap();
            assert_eq!(window.dilated(dilation), Ok(window));
        }
    }
}

/// The same call twice, and on other numbers of threads, gives the same bits.
#[test]
fn outputs_are_deterministic() {
    for kind in 0..KINDS {
        let case = ConvCase {
            sequences: Sequences::padded(300, &[300, 17, 0, 255]).unwrap(),
            heads: 3,
            head_channels: 37,
            window: Window::same(31).unwrap(),
            normalize: Normalize::SoftmaxInRange,
            dtype: DType::F32,
            parameters: DType::F32,
            bias: true,
            history: false,
            dropout: None,
            seed: 1,
        };
        let call = Call::draw(kind, &case);
        for device in devices() {
            let first = call.run(&device);
            for threads in [1, 2, 3, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let again = pool.install(|| call.run(&device));
                assert!(same_bits(&first, &again), "operator {kind} on {threads} threads");
            }
        }
    }
}
