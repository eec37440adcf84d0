//! What windows, sequences and problems refuse.

use lightspan::problem::{
    Activation, AppendProblem, AttentionProblem, Convolution, DynamicConvProblem, EmbeddingProblem,
    LinearBackwardProblem, LinearProblem, LinearWanted, NormKind, NormProblem, SpanKeyProblem, TopKProblem,
};
use lightspan::{DType, Error, Result, SequenceShape, Sequences, Window};

use crate::bad_input::window;
use crate::support::each;

use DType::{BF16, F16, F32};

fn batch(batch: usize, time: usize) -> SequenceShape {
    Sequences::batch(batch, time).unwrap().shape()
}

fn conv(channels: usize, heads: usize, window: Window) -> Result<Convolution> {
    Convolution::new(batch(2, 3), channels, heads, window, BF16)
}

#[test]
fn windows() {
    each([
        (Window::new(0, 1, 0), Error::ZeroSize { what: "window width" }),
        (Window::causal(0), Error::ZeroSize { what: "window width" }),
        (Window::same(0), Error::ZeroSize { what: "window width" }),
        (Window::new(3, 0, 0), Error::ZeroSize { what: "window dilation" }),
        (Window::new(4, 2, 7), Error::WindowLeft { left: 7, width: 4, dilation: 2, reach: 6 }),
        (Window::new(usize::MAX, 2, 0), Error::TooLarge { what: "window", sizes: vec![usize::MAX, 2] }),
        (window(9).dilated(usize::MAX), Error::TooLarge { what: "window", sizes: vec![9, usize::MAX] }),
    ]);
}

#[test]
fn sequences() {
    each([
        (Sequences::padded(4, &[4, 5]), Error::LengthPastTime { sequence: 1, length: 5, time: 4 }),
        (Sequences::packed(&[]), Error::OffsetStart { got: None }),
        (Sequences::packed(&[1, 2]), Error::OffsetStart { got: Some(1) }),
        (Sequences::packed(&[0, 5, 3]), Error::OffsetOrder { index: 2, previous: 5, got: 3 }),
        (
            Sequences::packed(&[0, usize::MAX]),
            Error::TooLarge { what: "sequences", sizes: vec![1, usize::MAX] },
        ),
        (
            Sequences::batch(3, usize::MAX / 2),
            Error::TooLarge { what: "sequences", sizes: vec![3, usize::MAX / 2] },
        ),
        (Sequences::batch(2, 3).unwrap().after(&[1]), Error::PastCount { sequences: 2, got: 1 }),
        (
            Sequences::batch(1, 3).unwrap().after(&[usize::MAX]),
            Error::TooLarge { what: "past", sizes: vec![usize::MAX] },
        ),
    ]);
}

#[test]
fn appends() {
    let huge = usize::MAX / 16;
    let append = |channels, room| AppendProblem::new(batch(2, 3), channels, room, F16);
    each([
        (append(0, 4), Error::ZeroSize { what: "channels" }),
        (append(4, 0), Error::ZeroSize { what: "room" }),
        (append(huge, 4), Error::TooLarge { what: "x", sizes: vec![6, huge] }),
        (append(4, huge), Error::TooLarge { what: "cache", sizes: vec![2, huge, 4] }),
    ]);
}

#[test]
fn convolutions() {
    let huge = usize::MAX / 16;
    let ahead = Error::HistoryNotCausal { left: 1, width: 3, dilation: 1, reach: 2 };
    let wrong = |tensor| Error::DType { tensor, expected: vec![BF16, F32], got: F16 };
    each([
        (conv(0, 1, window(3)), Error::ZeroSize { what: "channels" }),
        (conv(4, 0, window(3)), Error::ZeroSize { what: "heads" }),
        (conv(6, 4, window(3)), Error::Heads { heads: 4, channels: 6 }),
        (conv(3, 6, window(3)), Error::Heads { heads: 6, channels: 3 }),
        (conv(huge, 1, window(3)), Error::TooLarge { what: "x", sizes: vec![6, huge] }),
        (conv(4, 2, window(huge)), Error::TooLarge { what: "weight", sizes: vec![4, huge] }),
        (conv(4, 2, window(3)).unwrap().with_parameters(F16), wrong("parameters")),
        (conv(4, 2, window(3)).unwrap().with_history(true), ahead),
    ]);
    let given = DynamicConvProblem::given(conv(4, 2, window(3)).unwrap()).unwrap();
    let generated = DynamicConvProblem::generated(conv(4, 2, window(3)).unwrap()).unwrap();
    each([
        (given.with_query(3, F32), Error::Surplus { tensor: "query" }),
        (given.with_weight_bias(true), Error::Surplus { tensor: "weight_bias" }),
        (generated.with_query(0, F32), Error::ZeroSize { what: "query channels" }),
        (generated.with_query(3, F16), wrong("query")),
        (generated.with_query(huge, F32), Error::TooLarge { what: "query", sizes: vec![6, huge] }),
    ]);
    each([
        (SpanKeyProblem::new(batch(2, 3), 4, 0, window(3), F32), Error::ZeroSize { what: "key channels" }),
        (SpanKeyProblem::new(batch(2, 3), 0, 4, window(3), F32), Error::ZeroSize { what: "channels" }),
        (
            SpanKeyProblem::new(batch(2, 3), 4, 4, window(3), F16).and_then(|key| key.with_output(BF16)),
            Error::DType { tensor: "z", expected: vec![F16, F32], got: BF16 },
        ),
    ]);
}

#[test]
fn linear_and_attention() {
    each([
        (LinearProblem::new(1, 0, 1, F32), Error::ZeroSize { what: "linear inputs" }),
        (LinearProblem::new(1, 1, 0, F32), Error::ZeroSize { what: "linear outputs" }),
        (
            LinearProblem::new(1, 1, 1, F16).and_then(|linear| linear.with_parameters(BF16)),
            Error::DType { tensor: "parameters", expected: vec![F16, F32], got: BF16 },
        ),
    ]);
    let linear = LinearProblem::new(1, 6, 4, F32).unwrap();
    let glu = linear.with_activation(Activation::Glu);
    let large = isize::MAX as usize / 8;
    each([
        (linear.with_groups(0), Error::ZeroSize { what: "groups" }),
        (linear.with_groups(4), Error::Groups { groups: 4, what: "inputs", size: 6 }),
        (linear.with_groups(3), Error::Groups { groups: 3, what: "outputs", size: 4 }),
        (glu.clone().and_then(|glu| glu.with_groups(2)), Error::GroupedGlu { groups: 2 }),
        (
            linear.with_groups(2).and_then(|linear| linear.with_activation(Activation::Glu)),
            Error::GroupedGlu { groups: 2 },
        ),
        (
            LinearProblem::new(0, 1, large, F32).and_then(|linear| linear.with_activation(Activation::Glu)),
            Error::TooLarge { what: "weight", sizes: vec![2, large, 1] },
        ),
    ]);
    assert_eq!(glu.unwrap().with_groups(1).unwrap().weight_rows(), 8);
    // Nothing but a ReLU has a backward pass, and that one reads what a residual was added to.
    let relu = linear.with_activation(Activation::Relu).unwrap();
    let backward = |linear| LinearBackwardProblem::new(linear, LinearWanted::ALL);
    let none = |what| Error::NoBackward { operator: "linear", what };
    each([
        (backward(linear.with_activation(Activation::Gelu).unwrap()), none("a GELU")),
        (backward(linear.with_activation(Activation::GeluTanh).unwrap()), none("a GELU by tanh")),
        (backward(linear.with_activation(Activation::Glu).unwrap()), none("a GLU")),
        (backward(linear.with_groups(2).unwrap()), none("groups")),
        (backward(relu.with_residual(true)), none("a ReLU beside a residual")),
    ]);
    assert!(backward(linear.with_residual(true)).is_ok() && backward(relu).is_ok());
    let attention =
        |queries, keys, heads, d| AttentionProblem::new(batch(queries, 3), batch(keys, 3), heads, d, F32);
    each([
        (attention(2, 2, 0, 4), Error::ZeroSize { what: "heads" }),
        (attention(2, 2, 4, 0), Error::ZeroSize { what: "head channels" }),
        (attention(2, 3, 4, 4), Error::SequencePairs { queries: 2, keys: 3 }),
        (
            attention(2, 2, 1, 4).and_then(|a| a.with_scale(f32::INFINITY)),
            Error::NotFinite { what: "scale", got: f32::INFINITY },
        ),
    ]);
}

#[test]
fn norm() {
    let norm = |channels| NormProblem::new(NormKind::Layer, 3, channels, F16);
    let huge = usize::MAX / 4;
    each([
        (norm(0), Error::ZeroSize { what: "channels" }),
        (norm(huge), Error::TooLarge { what: "x", sizes: vec![3, huge] }),
        (
            norm(4).and_then(|norm| norm.with_parameters(BF16)),
            Error::DType { tensor: "parameters", expected: vec![F16, F32], got: BF16 },
        ),
    ]);
    // Devices may take what is smaller than any normal number for zero.
    for eps in [0.0, -0.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE / 2.0] {
        each([(norm(4).and_then(|norm| norm.with_eps(eps)), Error::NotPositive { what: "eps", got: eps })]);
    }
    let nan = norm(4).and_then(|norm| norm.with_eps(f32::NAN));
    assert!(matches!(nan, Err(Error::NotPositive { what: "eps", got }) if got.is_nan()));
    assert_eq!(norm(4).and_then(|norm| norm.with_eps(f32::MIN_POSITIVE)).unwrap().eps(), f32::MIN_POSITIVE);
}

#[test]
fn embedding() {
    let embedding = |vocabulary, channels| EmbeddingProblem::new(3, vocabulary, channels, F16);
    let grouped = |sequences| EmbeddingProblem::of_sequences(sequences, 4, 5, F16);
    let huge = usize::MAX / 4;
    each([
        (embedding(0, 4), Error::ZeroSize { what: "vocabulary" }),
        (embedding(4, 0), Error::ZeroSize { what: "channels" }),
        (embedding(1, huge), Error::TooLarge { what: "y", sizes: vec![3, huge] }),
        (embedding(huge, 1), Error::TooLarge { what: "table", sizes: vec![huge, 1] }),
        (grouped(batch(1, huge)), Error::TooLarge { what: "y", sizes: vec![huge, 5] }),
        (
            embedding(4, 5).and_then(|problem| problem.with_parameters(BF16)),
            Error::DType { tensor: "parameters", expected: vec![F16, F32], got: BF16 },
        ),
        (
            embedding(4, 5).and_then(|problem| problem.with_scale(f32::INFINITY)),
            Error::NotFinite { what: "scale", got: f32::INFINITY },
        ),
        (
            embedding(4, 5).and_then(|problem| problem.with_positions(9, 0)),
            Error::Missing { tensor: "sequences" },
        ),
        (
            grouped(batch(2, 3)).and_then(|problem| problem.with_positions(0, 0)),
            Error::ZeroSize { what: "rows of positions" },
        ),
        (
            grouped(batch(2, 3)).and_then(|problem| problem.with_positions(huge, 0)),
            Error::TooLarge { what: "positions", sizes: vec![huge, 5] },
        ),
        (
            grouped(batch(2, 3)).and_then(|problem| problem.with_positions(9, usize::MAX)),
            Error::TooLarge { what: "first position", sizes: vec![usize::MAX] },
        ),
        (
            embedding(4, 5).and_then(|problem| problem.with_types(0)),
            Error::ZeroSize { what: "rows of types" },
        ),
        (
            embedding(4, 5).and_then(|problem| problem.with_types(huge)),
            Error::TooLarge { what: "types", sizes: vec![huge, 5] },
        ),
    ]);
}

#[test]
fn top_k() {
    let top_k = |vocabulary, k| TopKProblem::new(3, vocabulary, k, F16);
    let (huge, past) = (usize::MAX / 4, u32::MAX as usize + 2);
    each([
        (top_k(0, 1), Error::ZeroSize { what: "vocabulary" }),
        (top_k(4, 0), Error::ZeroSize { what: "k" }),
        (top_k(4, 5), Error::TopK { k: 5, vocabulary: 4 }),
        (top_k(huge, 1), Error::TooLarge { what: "x", sizes: vec![3, huge] }),
        (top_k(past, 1), Error::TooLarge { what: "vocabulary", sizes: vec![past] }),
    ]);
    assert_eq!(top_k(past - 1, 1).unwrap().vocabulary(), past - 1);
}
