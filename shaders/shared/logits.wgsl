// Logits of the tokens of a tile, each token's own or, with a stride of 0, the same for all: those of a light convolution.
//
// The taps of token `output` of the tile and head `head` of its heads are row head * tokens + output in the workgroup's
// memory.

struct Logits {
    // Of the first of them, or of the generator's weight W.
    source_offset: u32,
    // From one token to the next.
    logit_stride: u32,
    // Heads of a tile.
    heads: u32,
    all_heads: u32,
}

// Logits, or the generator's weight W.
@group(0) @binding(5) var<storage, read> source: array<u32>;

// What the workgroup works on, for those who fill its memory. (WGSL does not take a private variable for uniform, so what
// barriers depend on is passed on by value.)
var<private> tile: Tile;
var<private> first_head: u32;
// Tokens of a tile.
var<private> tokens: u32;

// The row of the flat tensor that holds a token of the tile, and whether it is one of the sequence.
fn row_of(output: u32) -> vec2<u32> {
    let position = position_of(params.tiles, tile, output);
    return vec2<u32>(tile.sequence.first + position, u32(position < tile.sequence.length));
}

// The taps in range of a row in memory.
fn range_of(row: u32) -> vec2<u32> {
    let position = position_of(params.tiles, tile, row % tokens);
    if position >= tile.sequence.length {
        return vec2<u32>(0u, 0u);
    }
    return taps_in_range(params.conv, tile.sequence, position);
}

// A logit; zero past the window.
fn logit_at(row: u32, head: u32, tap: u32) -> f32 {
    if tap >= params.conv.width {
        return 0.0;
    }
    let element = params.logits.source_offset + row * params.logits.logit_stride + head * params.conv.width + tap;
    return element_in(source[word_of(element, S)], element, S);
}

fn quad_at(row: u32, head: u32, quad: u32) -> vec4<f32> {
    let tap = 4u * quad;
    return vec4<f32>(
        logit_at(row, head, tap),
        logit_at(row, head, tap + 1u),
        logit_at(row, head, tap + 2u),
        logit_at(row, head, tap + 3u),
    );
}

// The token that dropout counts: the row, or 0 where all tokens have the same weights.
fn dropout_token(row: u32) -> u32 {
    return select(row, 0u, GENERATED == 0u && params.logits.logit_stride == 0u);
}
