use std::ops::Range;

use lightspan::problem::Convolution;
use lightspan::{DType, Dropout, Normalize, Sequences, Window};
use proptest::collection::vec;
use proptest::prelude::*;

/// A drawn convolution: all that a problem says, and the contents of its sequences.
#[derive(Clone, Debug)]
pub struct ConvCase {
    pub sequences: Sequences,
    pub heads: usize,
    pub head_channels: usize,
    pub window: Window,
    pub normalize: Normalize,
    pub dtype: DType,
    pub parameters: DType,
    pub bias: bool,
    pub history: bool,
    pub dropout: Option<Dropout>,
    /// Where the numbers come from.
    pub seed: u64,
}

impl ConvCase {
    pub fn channels(&self) -> usize {
        self.heads * self.head_channels
    }

    pub fn convolution(&self) -> Convolution {
        Convolution::new(self.sequences.shape(), self.channels(), self.heads, self.window, self.dtype)
            .and_then(|conv| conv.with_parameters(self.parameters))
            .and_then(|conv| {
                let conv = conv.with_normalize(self.normalize).with_bias(self.bias);
                conv.with_dropout(self.dropout.map(Dropout::rate)).with_history(self.history)
            })
            .unwrap()
    }
}

impl ConvCase {
    /// The seed of the dropout, where there is dropout.
    pub fn dropout_seed(&self) -> Option<u64> {
        self.dropout.map(Dropout::seed)
    }

    /// The same without tokens from before the call: what a backward pass has.
    pub fn without_history(mut self) -> Self {
        let none = vec![0; self.sequences.shape().sequences()];
        (self.history, self.sequences) = (false, self.sequences.after(&none).unwrap());
        self
    }
}

/// A type for tokens, and one that may go with it for parameters.
pub fn dtypes() -> impl Strategy<Value = (DType, DType)> {
    (prop::sample::select(&DType::ALL[..]), any::<bool>())
        .prop_map(|(dtype, wide)| (dtype, if wide { DType::F32 } else { dtype }))
}

/// Sequences in every layout, also empty ones.
pub fn sequences(count: Range<usize>, length: Range<usize>) -> impl Strategy<Value = Sequences> {
    let time = length.end - 1;
    let lengths = vec(length.clone(), count.clone());
    prop_oneof![
        (count, length).prop_map(|(batch, time)| Sequences::batch(batch, time)),
        lengths.clone().prop_map(move |lengths| Sequences::padded(time, &lengths)),
        lengths.prop_map(|lengths| {
            let ends = lengths.iter().scan(0, |end, length| {
                *end += length;
                Some(*end)
            });
            Sequences::packed(&std::iter::once(0).chain(ends).collect::<Vec<_>>())
        }),
    ]
    .prop_map(|sequences| sequences.unwrap())
}

/// K 1 to 70, most of them small; any dilation and left padding; half of them causal.
fn window() -> impl Strategy<Value = Window> {
    let width = prop_oneof![3 => 1usize..10, 2 => 10usize..36, 1 => 36usize..=70];
    (width, prop_oneof![3 => Just(1usize), 1 => 2usize..7], any::<prop::sample::Index>(), any::<bool>())
        .prop_map(|(width, dilation, left, causal)| {
            let reach = (width - 1) * dilation;
            Window::new(width, dilation, if causal { reach } else { left.index(reach + 1) }).unwrap()
        })
}

/// Convolutions over the whole space of problems: sequences up to `length`, heads of every size.
fn case(length: Range<usize>) -> impl Strategy<Value = ConvCase> {
    let normalize =
        prop::sample::select(&[Normalize::None, Normalize::Softmax, Normalize::SoftmaxInRange][..]);
    let head_channels =
        prop_oneof![4 => 1usize..10, 2 => 10usize..40, 1 => prop::sample::select(&[64, 128, 131][..])];
    let sizes = (sequences(0..5, length), 1usize..6, head_channels, window());
    let dropout = prop::option::weighted(0.25, prop::sample::select(&[0.1f32, 0.5, 0.9][..]));
    let kinds = (normalize, dtypes(), any::<bool>(), any::<bool>(), dropout);
    (sizes, kinds, vec(0usize..100, 5), any::<u64>()).prop_map(
        |(
            (sequences, heads, head_channels, window),
            (normalize, (dtype, parameters), bias, history, dropout),
            past,
            seed,
        )| {
            let history = history && window.is_causal();
            let sequences = if history {
                let past = &past[..sequences.shape().sequences()];
                sequences.after(past).unwrap()
            } else {
                sequences
            };
            ConvCase {
                sequences,
                heads,
                head_channels,
                window,
                normalize,
                dtype,
                parameters,
                bias,
                history,
                // The second half of the seed is in the key of the generator too.
                dropout: dropout.map(|rate| Dropout::new(rate, seed.rotate_left(17)).unwrap()),
                seed,
            }
        },
    )
}

/// Convolutions of short sequences.
pub fn conv_case() -> impl Strategy<Value = ConvCase> {
    case(0..48)
}

/// Convolutions of sequences that take several tiles, with few channels.
pub fn long_conv_case() -> impl Strategy<Value = ConvCase> {
    case(120..700).prop_map(|mut case| {
        case.heads = case.heads.min(2);
        case.head_channels = case.head_channels.min(5);
        case
    })
}

/// Convolutions of short sequences that have a backward pass.
pub fn trained_case() -> impl Strategy<Value = ConvCase> {
    conv_case().prop_map(ConvCase::without_history)
}

/// The same over several tiles.
pub fn trained_long_case() -> impl Strategy<Value = ConvCase> {
    long_conv_case().prop_map(ConvCase::without_history)
}
