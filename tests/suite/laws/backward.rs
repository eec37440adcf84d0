//! What must hold of gradients.

use lightspan::{DType, Device, Normalize, Sequences, Tensor};
use proptest::prelude::*;

use crate::dynamic_conv::Generator;
use crate::support::{
    ConvCase, Selection, Values, config, devices, same_bits, trained_case, trained_long_case,
};
use crate::{dynamic_conv, light_conv, span_conv};

/// A drawn call of any of the convolutions, and the gradient of its output.
enum Call {
    Light(Box<light_conv::backward::Backward>),
    Dynamic(Box<dynamic_conv::backward::Backward>),
    Span(Box<span_conv::backward::Backward>),
}

const KINDS: usize = 4;

impl Call {
    fn draw(kind: usize, case: &ConvCase) -> Self {
        let dynamic = |generator| {
            let call = dynamic_conv::backward::Backward::draw(case, generator, Selection::ALL);
            Call::Dynamic(Box::new(call))
        };
        match kind {
            0 => Call::Light(Box::new(light_conv::backward::Backward::draw(case, Selection::ALL))),
            1 => dynamic(Generator::Given),
            2 => dynamic(Generator::Own { weight_bias: true }),
            _ => Call::Span(Box::new(span_conv::backward::Backward::draw(case, 7, Selection::ALL))),
        }
    }

    /// The name, the number of a row's numbers where there is a row for each token, and the gradient, of each input.
    fn run(&self, device: &Device) -> Vec<(&'static str, Option<usize>, Tensor)> {
        let (expected, found) = match self {
            Call::Light(call) => (call.expected(), call.run(device)),
            Call::Dynamic(call) => (call.expected(), call.run(device)),
            Call::Span(call) => (call.expected(), call.run(device)),
        };
        let of_tokens = ["dx", "dlogits", "dquery", "dvalue"];
        let rows = self.case().sequences.shape().tokens().max(1);
        let all = expected.iter().zip(found.unwrap()).filter_map(|(expected, found)| {
            let width =
                of_tokens.contains(&expected.name).then(|| expected.shape.iter().product::<usize>() / rows);
            found.map(|found| (expected.name, width, found))
        });
        all.collect()
    }

    fn case(&self) -> &ConvCase {
        match self {
            Call::Light(call) => &call.call.case,
            Call::Dynamic(call) => &call.call.case,
            Call::Span(call) => &call.call.case,
        }
    }

    fn dy(&mut self) -> &mut Values {
        match self {
            Call::Light(call) => &mut call.dy,
            Call::Dynamic(call) => &mut call.dy,
            Call::Span(call) => &mut call.dy,
        }
    }

    /// The tokens that are convolved.
    fn convolved(&mut self) -> &mut Values {
        match self {
            Call::Light(call) => &mut call.call.x,
            Call::Dynamic(call) => &mut call.call.x,
            Call::Span(call) => &mut call.call.value,
        }
    }

    /// Puts NaN and infinity into a range of rows of the convolved tokens and of dy.
    fn spoil(&mut self, sequences: &Sequences, rows: std::ops::Range<usize>) {
        let of = |values: &mut Values| {
            let width = values.data.len() / sequences.shape().tokens().max(1);
            let data = &mut values.data[rows.start * width..rows.end * width];
            for (i, value) in data.iter_mut().enumerate() {
                *value = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][i % 3];
            }
        };
        of(self.dy());
        of(self.convolved());
    }
}

fn rows_of(tensor: &Tensor, width: usize, rows: std::ops::Range<usize>) -> Vec<f32> {
    tensor.to_f32().unwrap()[rows.start * width..rows.end * width].to_vec()
}

fn bits_of(tensor: &Tensor, width: usize, rows: std::ops::Range<usize>) -> Vec<u32> {
    rows_of(tensor, width, rows).into_iter().map(f32::to_bits).collect()
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn no_gradient_flows_into_padding_or_across_sequences(
        kind in 0..KINDS,
        case in prop_oneof![trained_case(), trained_long_case()],
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
            for ((name, width, clean), (_, _, other)) in clean.iter().zip(&other) {
                let Some(width) = *width else { continue };
                for (s, sequence) in sequences.iter().enumerate() {
                    let end = sequence.first + sequence.length;
                    let padding = rows_of(other, width, end..end + sequence.padding);
                    prop_assert!(padding.iter().all(|&number| number == 0.0), "{name} in the padding: {padding:?}");
                    if s != spoiled {
                        let rows = sequence.first..end;
                        prop_assert_eq!(bits_of(clean, width, rows.clone()), bits_of(other, width, rows), "{}", name);
                    }
                }
            }
        }
    }

    /// Twice dy is twice every gradient: exactly, since a factor of two rounds nothing (but what is too small for f16).
    #[test]
    fn gradients_are_linear_in_dy(
        kind in 0..KINDS,
        case in prop_oneof![trained_case(), trained_long_case()]
            .prop_filter("no subnormal numbers", |case| case.dtype != DType::F16),
    ) {
        let (once, mut twice) = (Call::draw(kind, &case), Call::draw(kind, &case));
        twice.dy().data.iter_mut().for_each(|dy| *dy *= 2.0);
        for device in devices() {
            let (once, twice) = (once.run(&device), twice.run(&device));
            for ((name, _, once), (_, _, twice)) in once.iter().zip(&twice) {
                for (once, twice) in once.to_f32().unwrap().iter().zip(twice.to_f32().unwrap()) {
                    // Below, numbers may be flushed to zero on the way.
                    let same = 2.0 * once == twice || once.abs() < 1e-30;
                    prop_assert!(same, "{name}: {once:e}, and {twice:e} from twice dy");
                }
            }
        }
    }

    /// Where the weights in use sum to one, outputs of a constant input do not change with the logits.
    #[test]
    fn the_logits_of_a_constant_have_no_gradient(
        kind in 0..3usize,
        mut case in prop_oneof![trained_case(), trained_long_case()],
    ) {
        (case.normalize, case.dropout) = (Normalize::SoftmaxInRange, None);
        let mut call = Call::draw(kind, &case);
        call.convolved().data.fill(1.0);
        call.dy().data.iter_mut().filter(|dy| !dy.is_nan()).for_each(|dy| *dy = 1.0);
        // The weights of a light convolution are shared by all tokens; the generator is applied to ones.
        let tokens: usize = case.sequences.as_slice().iter().map(|sequence| sequence.length).sum();
        let terms = (case.head_channels * tokens.max(1)) as f32;
        for device in devices() {
            let found = call.run(&device);
            for (name, _, gradient) in &found {
                let gradient = gradient.to_f32().unwrap();
                match *name {
                    "dlogits" | "dweight" | "dweight_bias" => {
                        let allowed = terms * terms.sqrt() * 1e-6;
                        let largest = gradient.iter().fold(0.0f32, |largest, g| largest.max(g.abs()));
                        prop_assert!(largest <= allowed, "{name} of a constant: {largest:e}, allowed {allowed:e}");
                    }
                    "dbias" => {
                        let tokens = case.parameters.round(tokens as f64) as f32;
                        prop_assert!(gradient.iter().all(|&g| g == tokens), "dbias: {gradient:?}, not {tokens}");
                    }
                    _ => {}
                }
            }
        }
    }

    /// A tap that no token has in range is no tap: raw weights there have no gradient, and so are logits out of range.
    #[test]
    fn no_gradient_flows_into_taps_out_of_range(kind in 0..2usize, mut case in trained_case()) {
        case.normalize = if case.bias { Normalize::None } else { Normalize::SoftmaxInRange };
        let call = Call::draw(kind, &case);
        let (width, window) = (case.window.width(), case.window);
        for device in devices() {
            let found = call.run(&device);
            for (name, _, gradient) in found.iter().filter(|found| ["dweight", "dlogits"].contains(&found.0)) {
                let gradient = gradient.to_f32().unwrap();
                let sequences = case.sequences.as_slice();
                let tokens = || sequences.iter().flat_map(|s| (0..s.length).map(move |t| (*s, t)));
                let used = |j: usize, row: Option<usize>| {
                    tokens().any(|(s, t)| {
                        row.is_none_or(|row| row == s.first + t) && window.taps_in_range(t, s.length, 0).contains(&j)
                    })
                };
                for (i, gradient) in gradient.into_iter().enumerate() {
                    let row = (*name == "dlogits").then_some(i / (case.heads * width));
                    prop_assert!(gradient == 0.0 || used(i % width, row), "{name} is {gradient} at {i}");
                }
            }
        }
    }
}

/// The same call twice, and on other numbers of threads, gives the same bits.
#[test]
fn gradients_are_deterministic() {
    for kind in 0..KINDS {
        let case = ConvCase {
            sequences: Sequences::padded(300, &[300, 17, 0, 255]).unwrap(),
            heads: 3,
            head_channels: 37,
            window: lightspan::Window::same(31).unwrap(),
            normalize: Normalize::SoftmaxInRange,
            dtype: DType::F32,
            parameters: DType::F32,
            bias: true,
            history: false,
            dropout: Some(lightspan::Dropout::new(0.1, 3).unwrap()),
            seed: 1,
        };
        let call = Call::draw(kind, &case);
        for device in devices() {
            let first = call.run(&device);
            for threads in [1, 2, 3, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let again = pool.install(|| call.run(&device));
                for ((name, _, first), (_, _, again)) in first.iter().zip(&again) {
                    assert!(same_bits(first, again), "{name} of operator {kind} on {threads} threads");
                }
            }
        }
    }
}
