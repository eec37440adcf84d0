// The mean of the gradients of a query's weights, sum_n p_n dy v_n, which is dy y. Several invocations share a row:
// `gradient_word(word)` is a word of dy.

@group(0) @binding(6) var<storage, read> outputs: array<u32>;

// The sum of every `shares`-th channel, from `share` on, for one of the tile's queries; dy lies at `rows`.
fn share_of_mean(work: Work, row: u32, share: u32, shares: u32, rows: Rows) -> f32 {
    let position = work.tile.start + row;
    if position >= work.tile.sequence.length {
        return 0.0;
    }
    let attention = params.attention;
    let token = work.tile.sequence.first + position;
    let column = work.head * attention.head_channels;
    let y_at = token * attention.other_queries_stride + attention.other_queries_offset + column;
    let dy_at = token * rows.stride + rows.offset + column;
    var sum = 0.0;
    for (var c = share; c < attention.head_channels; c += shares) {
        let y_element = y_at + c;
        let dy_element = dy_at + c;
        let output = element_in(outputs[word_of(y_element, X)], y_element, X);
        sum = fma(element_in(gradient_word(word_of(dy_element, X)), dy_element, X), output, sum);
    }
    return sum;
}
