use std::ops::Range;

use lightspan::problem::Convolution;
use lightspan::{DType, Dropout, Normalize, Sequences, Window};
use proptest::collection::vec;
use proptest::prelude::*;

/// A drawn convolution: all that a call says but its numbers.
#[derive(Clone, Debug)]
pub struct ConvCase {
    pub sequences: Sequences,
    /// Whether the call is told of the sequences: without, x is a batch without padding.
    pub told: bool,
    pub heads: usize,
    pub head_channels: usize,
    pub window: Window,
    pub normalize: Normalize,
    pub dtype: DType,
    pub parameters: DType,
    pub bias: bool,
    pub dropout: Option<Dropout>,
    /// Which inputs are variables, and how each lies in memory.
    pub tracked: u32,
    /// Where the numbers come from.
    pub seed: u64,
}

impl ConvCase {
    pub fn channels(&self) -> usize {
        self.heads * self.head_channels
    }

    pub fn width(&self) -> usize {
        self.window.width()
    }

    pub fn convolution(&self) -> Convolution {
        Convolution::new(self.sequences.shape(), self.channels(), self.heads, self.window, self.dtype)
            .and_then(|conv| conv.with_parameters(self.parameters))
            .unwrap()
            .with_normalize(self.normalize)
            .with_bias(self.bias)
            .with_dropout(self.dropout.map(Dropout::rate))
    }

    /// What the call is told.
    pub fn told(&self) -> Option<&Sequences> {
        self.told.then_some(&self.sequences)
    }

    /// The seed of the dropout, where there is dropout.
    pub fn dropout_seed(&self) -> Option<u64> {
        self.dropout.map(Dropout::seed)
    }
}

/// A type for tokens, and one that may go with it for parameters.
fn dtypes() -> impl Strategy<Value = (DType, DType)> {
    (prop::sample::select(&DType::ALL[..]), any::<bool>())
        .prop_map(|(dtype, wide)| (dtype, if wide { DType::F32 } else { dtype }))
}

/// Sequences in every layout, with at least one token in all.
fn sequences(count: Range<usize>, length: Range<usize>) -> impl Strategy<Value = Sequences> {
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
    // candle has no maxima of nothing, which the composition takes.
    .prop_filter("no token", |sequences| sequences.shape().tokens() > 0)
}

/// K 1 to 40, most of them small; any dilation and left padding; half of them causal.
fn window() -> impl Strategy<Value = Window> {
    let width = prop_oneof![3 => 1usize..10, 1 => 10usize..=40];
    (width, prop_oneof![3 => Just(1usize), 1 => 2usize..5], any::<prop::sample::Index>(), any::<bool>())
        .prop_map(|(width, dilation, left, causal)| {
            let reach = (width - 1) * dilation;
            Window::new(width, dilation, if causal { reach } else { left.index(reach + 1) }).unwrap()
        })
}

/// Convolutions over the whole space of problems, small.
pub fn conv_case() -> impl Strategy<Value = ConvCase> {
    let normalize =
        prop::sample::select(&[Normalize::None, Normalize::Softmax, Normalize::SoftmaxInRange][..]);
    let head_channels = prop_oneof![3 => 1usize..6, 1 => 6usize..20];
    let sizes = (sequences(1..4, 0..24), 1usize..5, head_channels, window());
    let dropout = prop::option::weighted(0.3, prop::sample::select(&[0.1f32, 0.5, 0.9][..]));
    let kinds = (normalize, dtypes(), any::<bool>(), dropout);
    (sizes, kinds, any::<bool>(), prop_oneof![Just(u32::MAX), any::<u32>()], any::<u64>()).prop_map(
        |(
            (sequences, heads, head_channels, window),
            (normalize, (dtype, parameters), bias, dropout),
            told,
            tracked,
            seed,
        )| {
            let plain = matches!(sequences.shape().layout(), lightspan::Layout::Batch { .. });
            ConvCase {
                told: told || !plain,
                sequences,
                heads,
                head_channels,
                window,
                normalize,
                dtype,
                parameters,
                bias,
                // The second half of the seed is in the key of the generator too.
                dropout: dropout.map(|rate| Dropout::new(rate, seed.rotate_left(17)).unwrap()),
                tracked,
                seed,
            }
        },
    )
}
