//! What each problem says it costs, against sums made by hand: a multiply-add is two operations, every input is read
//! once and every output written once.

use lightspan::problem::{
    Activation, AppendProblem, AttentionProblem, Convolution, DynamicConvProblem, EmbeddingProblem,
    HistoryProblem, LightConvProblem, LinearProblem, Mask, NormKind, NormProblem, NormResidual,
    SpanConvProblem, SpanKeyProblem, TopKProblem,
};
use lightspan::{DType, SequenceShape, Sequences, Window};

use DType::{BF16, F16, F32};

/// Two sequences of three tokens: six tokens.
fn six_tokens() -> SequenceShape {
    Sequences::batch(2, 3).unwrap().shape()
}

/// H = 2 and K = 3, so H K = 6; a history of (K - 1) r = 2 tokens for each of two sequences.
fn conv(channels: usize, dtype: DType) -> Convolution {
    Convolution::new(six_tokens(), channels, 2, Window::causal(3).unwrap(), dtype).unwrap()
}

/// With all that a convolution may have, and parameters in f32.
fn full(channels: usize, dtype: DType) -> Convolution {
    let conv = conv(channels, dtype).with_bias(true);
    conv.with_parameters(F32).and_then(|conv| conv.with_history(true)).unwrap()
}

#[test]
fn light_conv() {
    let flops = 2 * 6 * 4 * 3;
    let (x, y, weight) = (6 * 4, 6 * 4, 2 * 3);
    let plain = LightConvProblem::new(conv(4, F32));
    assert_eq!((plain.flops(), plain.bytes()), (flops, 4 * (x + y + weight)));
    let half = LightConvProblem::new(conv(4, F16));
    assert_eq!((half.flops(), half.bytes()), (flops, 2 * (x + y + weight)));
    let (bias, history) = (4, 2 * 2 * 4);
    let biased = LightConvProblem::new(conv(4, BF16).with_bias(true));
    assert_eq!(biased.bytes(), 2 * (x + y + weight + bias));
    let full = LightConvProblem::new(full(4, F16));
    assert_eq!((full.flops(), full.bytes()), (flops, 2 * (x + y + history) + 4 * (weight + bias)));
}

#[test]
fn dynamic_conv() {
    let convolved = 2 * 6 * 4 * 3;
    let (x, y, bias, history) = (6 * 4, 6 * 4, 4, 2 * 2 * 4);
    let logits = 6 * 6;
    let given = DynamicConvProblem::given(conv(4, F32)).unwrap();
    assert_eq!((given.flops(), given.bytes()), (convolved, 4 * (x + y + logits)));
    let given = DynamicConvProblem::given(full(4, BF16)).unwrap();
    assert_eq!(
        (given.flops(), given.bytes()),
        (convolved, 2 * (x + y + history) + 4 * (logits + bias)),
        "logits are parameters"
    );

    // x is its own query and read once.
    let (generated, weight) = (2 * 6 * 4 * 6, 6 * 4);
    let own = DynamicConvProblem::generated(conv(4, F32)).unwrap();
    assert_eq!((own.flops(), own.bytes()), (convolved + generated, 4 * (x + y + weight)));

    // A separate query of five channels, in f32 beside 16-bit tokens and in their type.
    let (generated, weight, weight_bias, query) = (2 * 6 * 5 * 6, 6 * 5, 6, 6 * 5);
    let separate = |conv, dtype| {
        DynamicConvProblem::generated(conv)
            .and_then(|problem| problem.with_query(5, dtype)?.with_weight_bias(true))
            .unwrap()
    };
    let wide = separate(full(4, F16), F32);
    assert_eq!(
        (wide.flops(), wide.bytes()),
        (convolved + generated, 2 * (x + y + history) + 4 * query + 4 * (weight + weight_bias + bias))
    );
    let narrow = separate(full(4, F16), F16);
    assert_eq!(narrow.bytes(), 2 * (x + y + history + query) + 4 * (weight + weight_bias + bias));
    let narrow = separate(conv(4, F16), F16);
    assert_eq!(narrow.bytes(), 2 * (x + y + query + weight + weight_bias));
}

#[test]
fn span_key() {
    // C = 4, A = 5: the depthwise convolution, the pointwise product, and the product with q.
    let flops = 6 * (2 * 3 * 4 + 2 * 4 * 5 + 5);
    let (x, q, z, depthwise, pointwise) = (6 * 4, 6 * 5, 6 * 5, 4 * 3, 5 * 4);
    let window = Window::causal(3).unwrap();
    let key = |dtype| SpanKeyProblem::new(six_tokens(), 4, 5, window, dtype).unwrap();
    let plain = key(F32);
    assert_eq!((plain.flops(), plain.bytes()), (flops, 4 * (x + q + z + depthwise + pointwise)));
    let (key_bias, history) = (5, 2 * 2 * 4);
    let full = key(BF16)
        .with_parameters(F32)
        .and_then(|key| key.with_key_bias(true).with_history(true)?.with_output(F32))
        .unwrap();
    assert_eq!(
        (full.flops(), full.bytes()),
        (flops, 2 * (x + q + history) + 4 * z + 4 * (depthwise + pointwise + key_bias))
    );
}

#[test]
fn span_conv() {
    // C = 4, A = 6.
    let key = 6 * (2 * 3 * 4 + 2 * 4 * 6 + 6);
    let (generated, convolved) = (2 * 6 * 6 * 6, 2 * 6 * 6 * 3);
    let flops = key + generated + convolved;
    // z goes from one operator to the other and is counted nowhere.
    let (x, q, v, y) = (6 * 4, 6 * 6, 6 * 6, 6 * 6);
    let (depthwise, pointwise, weight) = (4 * 3, 6 * 4, 6 * 6);
    let plain = SpanConvProblem::new(4, conv(6, F32)).unwrap();
    assert_eq!((plain.flops(), plain.bytes()), (flops, 4 * (x + q + v + y + depthwise + pointwise + weight)));
    let half = SpanConvProblem::new(4, conv(6, BF16)).unwrap();
    assert_eq!(half.bytes(), 2 * (x + q + v + y + depthwise + pointwise + weight));
    let (key_bias, weight_bias, bias) = (6, 6, 6);
    let (history, value_history) = (2 * 2 * 4, 2 * 2 * 6);
    let full = SpanConvProblem::new(4, full(6, F16)).unwrap().with_key_bias(true).with_weight_bias(true);
    assert_eq!(
        (full.flops(), full.bytes()),
        (
            flops,
            2 * (x + q + v + y + history + value_history)
                + 4 * (depthwise + pointwise + weight + key_bias + weight_bias + bias)
        )
    );
}

#[test]
fn linear() {
    let linear = |dtype| LinearProblem::new(3, 4, 5, dtype).unwrap();
    let flops = 2 * 3 * 4 * 5;
    let (x, y, weight, bias) = (3 * 4, 3 * 5, 5 * 4, 5);
    assert_eq!((linear(F32).flops(), linear(F32).bytes()), (flops, 4 * (x + y + weight)));
    assert_eq!(linear(BF16).with_bias(true).bytes(), 2 * (x + y + weight + bias));
    let wide = linear(F16).with_bias(true).with_parameters(F32).unwrap();
    assert_eq!((wide.flops(), wide.bytes()), (flops, 2 * (x + y) + 4 * (weight + bias)));
    // Both halves of a GLU; a residual is read as y is written.
    let glu = wide.with_activation(Activation::Glu).unwrap().with_residual(true);
    assert_eq!((glu.weight_rows(), glu.outputs()), (10, 5));
    assert_eq!((glu.flops(), glu.bytes()), (2 * flops, 2 * (x + 2 * y) + 4 * 2 * (weight + bias)));
    // Each output of a group reads the inputs of that group alone.
    let grouped = LinearProblem::new(3, 4, 6, F32).and_then(|problem| problem.with_groups(2)).unwrap();
    assert_eq!((grouped.group_inputs(), grouped.group_outputs(), grouped.weight_rows()), (2, 3, 6));
    assert_eq!((grouped.flops(), grouped.bytes()), (2 * 3 * 6 * 2, 4 * (x + 3 * 6 + 6 * 2)));
}

#[test]
fn norm() {
    let norm = |kind, dtype| NormProblem::new(kind, 3, 5, dtype).unwrap();
    let (rows, channels) = (3 * 5, 5);
    // The square and its sum, the products with one over the root and with the weight.
    let plain = norm(NormKind::Rms, F32);
    assert_eq!((plain.flops(), plain.bytes()), (4 * rows, 4 * (2 * rows + channels)));
    // The sum of the mean, and the difference from it.
    let layer = norm(NormKind::Layer, BF16);
    assert_eq!((layer.flops(), layer.bytes()), (6 * rows, 2 * (2 * rows + channels)));
    let full = norm(NormKind::Layer, F16)
        .with_parameters(F32)
        .unwrap()
        .with_bias(true)
        .with_residual(NormResidual::Before { sum: true });
    assert_eq!((full.flops(), full.bytes()), (8 * rows, 2 * (4 * rows) + 4 * (2 * channels)));
    for residual in [NormResidual::After, NormResidual::Before { sum: false }] {
        let two = norm(NormKind::Rms, F16).with_residual(residual);
        assert_eq!((two.flops(), two.bytes()), (5 * rows, 2 * (3 * rows + channels)));
    }
}

#[test]
fn embedding() {
    let (tokens, channels) = (6, 5);
    // Rows are only moved: an id is read and a row written for each token, of a table of four.
    let plain = EmbeddingProblem::new(6, 4, 5, F32).unwrap();
    assert_eq!((plain.flops(), plain.bytes()), (0, 4 * tokens + 4 * (tokens + 4) * channels));
    // Of a table that has more, no more than six are read; of positions, those of three tokens.
    let full = EmbeddingProblem::of_sequences(six_tokens(), 100, 5, F16)
        .and_then(|full| full.with_parameters(F32)?.with_scale(2.0)?.with_positions(50, 1)?.with_types(2))
        .unwrap();
    assert_eq!(full.flops(), 3 * tokens * channels);
    assert_eq!(full.bytes(), 8 * tokens + 2 * tokens * channels + 4 * (6 + 3 + 2) * channels);
}

#[test]
fn top_k() {
    let plain = TopKProblem::new(6, 7, 3, BF16).unwrap();
    assert_eq!((plain.flops(), plain.bytes()), (6 * 7, 2 * 6 * 7 + 8 * 6 * 3));
    assert_eq!(plain.with_log_softmax(true).flops(), 4 * 6 * 7);
    let tokens = plain.with_values(false).with_log_softmax(true);
    assert_eq!((tokens.flops(), tokens.bytes()), (6 * 7, 2 * 6 * 7 + 4 * 6 * 3));
}

#[test]
fn attention() {
    // Two sequences of three queries and five keys; H = 2, D = 4.
    let keys = Sequences::batch(2, 5).unwrap().shape();
    let attention = |dtype| AttentionProblem::new(six_tokens(), keys, 2, 4, dtype).unwrap();
    let (q, k, v, y) = (6 * 8, 10 * 8, 10 * 8, 6 * 8);
    // A score and its part of the output are D multiply-adds each.
    let pair = 2 * (2 * 4);
    let full = attention(F32);
    assert_eq!((full.flops(), full.bytes()), (2 * 2 * (3 * 5) * pair, 4 * (q + k + v + y)));
    // The queries stand at the last three keys.
    let causal = attention(F16).with_mask(Mask::CAUSAL);
    assert_eq!((causal.flops(), causal.bytes()), (2 * 2 * (3 + 4 + 5) * pair, 2 * (q + k + v + y)));
    let local = attention(BF16).with_mask(Mask::local(Some(1), Some(1)));
    assert_eq!(local.flops(), 2 * 2 * (3 + 3 + 2) * pair);
}

#[test]
fn history() {
    let next = 2 * 2 * 4;
    for (dtype, size) in [(F32, 4), (F16, 2), (BF16, 2)] {
        let problem = HistoryProblem::new(conv(4, dtype)).unwrap();
        assert_eq!((problem.flops(), problem.bytes()), (0, size * (next + next)));
    }
}

#[test]
fn append() {
    for (dtype, size) in [(F32, 4), (F16, 2), (BF16, 2)] {
        for shape in [Sequences::padded(3, &[1, 0]).unwrap(), Sequences::packed(&[0, 6, 6]).unwrap()] {
            // The room of the cache is not read, and costs nothing.
            let problem = AppendProblem::new(shape.shape(), 4, 1000, dtype).unwrap();
            assert_eq!((problem.flops(), problem.bytes()), (0, size * 2 * 6 * 4));
        }
    }
}

/// Memory that holds padding is read and written like any other.
#[test]
fn padding_counts() {
    let padded = Sequences::padded(3, &[1, 0]).unwrap().shape();
    let packed = Sequences::packed(&[0, 6, 6]).unwrap().shape();
    for shape in [padded, packed] {
        let conv = Convolution::new(shape, 4, 2, Window::causal(3).unwrap(), F32).unwrap();
        let problem = LightConvProblem::new(conv);
        assert_eq!((problem.flops(), problem.bytes()), (2 * 6 * 4 * 3, 4 * (6 * 4 + 6 * 4 + 2 * 3)));
    }
}
