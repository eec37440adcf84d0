// The transposed band: the taps of a row are those of other tokens that read the row's token. The window is the mirrored
// one of a gradient that flows back: tap i of token s reads the gradient of token t = s + i r - P, whose tap K - 1 - i
// reads token s. Their weights are made here, from logits and the statistics of the softmax of t.

const GATHERED = 1u;

// The weight by which the token of the tile at `position` goes into the token under its tap; zero where there is none.
fn gathered(position: u32, head: u32, tap: u32) -> f32 {
    let conv = params.conv;
    // What lies before the sequence is past its length, without a sign.
    let reader = position + tap * conv.dilation - conv.left;
    if tap >= conv.width || reader >= tile.sequence.length {
        return 0.0;
    }
    let row = tile.sequence.first + reader;
    let number = conv.width - 1u - tap;
    var weight = logit_at(row, head, number);
    if conv.normalize != NONE {
        // The statistics stand in the place of the query.
        let at = params.query_offset + 2u * (row * params.logits.all_heads + head);
        weight = exp(weight - bitcast<f32>(query[at])) / bitcast<f32>(query[at + 1u]);
    }
    let kept = factor(params.dropout, number, head, dropout_token(row));
    return select(0.0, weight * kept, kept > 0.0);
}

fn fill(me: u32, chunk: Chunk) {
    for (var i = me; i < chunk.rows * chunk.quads; i += WORKGROUP) {
        let quad = i % chunk.quads;
        let head = i / chunk.quads % params.logits.heads;
        let output = i / chunk.quads / params.logits.heads;
        let position = position_of(params.tiles, tile, output);
        var weights = vec4<f32>(0.0);
        if position < tile.sequence.length && first_head + head < params.logits.all_heads {
            let h = first_head + head;
            let tap = 4u * (chunk.first_quad + quad);
            weights = vec4<f32>(
                gathered(position, h, tap),
                gathered(position, h, tap + 1u),
                gathered(position, h, tap + 2u),
                gathered(position, h, tap + 3u),
            );
        }
        memory[quad * chunk.rows + head * tokens + output] = weights;
    }
}

// What is dropped is left out already.
fn factors_of(row: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>(1.0);
}
