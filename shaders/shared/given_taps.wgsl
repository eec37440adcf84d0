// The taps of a row are the token's own: its logits fill the memory, unless they are generated there.

const GATHERED = 0u;

fn fill(me: u32, chunk: Chunk) {
    if GENERATED == 1u {
        return;
    }
    for (var i = me; i < chunk.rows * chunk.quads; i += WORKGROUP) {
        let quad = i % chunk.quads;
        let head = i / chunk.quads % params.logits.heads;
        let output = i / chunk.quads / params.logits.heads;
        let row = row_of(output);
        var logits = vec4<f32>(0.0);
        if row.y == 1u && first_head + head < params.logits.all_heads {
            logits = quad_at(row.x, first_head + head, chunk.first_quad + quad);
        }
        memory[quad * chunk.rows + head * tokens + output] = logits;
    }
}

fn factors_of(row: u32, quad: u32) -> vec4<f32> {
    let token = dropout_token(row_of(row % tokens).x);
    return factors(params.dropout, quad, first_head + row / tokens, token);
}
