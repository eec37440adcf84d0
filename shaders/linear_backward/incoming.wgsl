// The gradient da [tokens, outputs] that flows into a linear layer, on its way into products and sums: dy as it lies in
// memory, or through an activation, or times a factor. It is never stored.

struct Params {
    tokens: u32,
    // Columns of da, and rows of W.
    outputs: u32,
    // Columns of W and x.
    inputs: u32,
    // Rows of each sequence of a padded batch; 0 where there is no padding.
    time: u32,
    // Tokens of a chunk, whose sums are added up later, and chunks.
    chunk: u32,
    chunks: u32,
    dy_offset: u32,
    dy_stride: u32,
    factor_offset: u32,
    factor_stride: u32,
    b_offset: u32,
    b_stride: u32,
    addend_offset: u32,
    addend_stride: u32,
    y_offset: u32,
    y_stride: u32,
    // Row and column groups of a tile.
    row_groups: u32,
    column_groups: u32,
    // Tiles side by side on the columns, and tiles of a chunk.
    columns: u32,
    tiles: u32,
    // Workgroups there are; the grid may hold a few more.
    groups: u32,
    unused_1: u32,
    unused_2: u32,
    unused_3: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// first, length, room, past of each sequence.
@group(0) @binding(2) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> dy: array<u32>;
// What dy goes through, of the same size: the output of a ReLU, or what dy is multiplied by.
@group(0) @binding(4) var<storage, read> factors: array<u32>;

// What FACTOR may be.
const NOTHING = 0u;
const RELU = 1u;
const TIMES = 2u;

// Whether a row is a token of a sequence: what lies in the padding may be anything.
fn is_token(row: u32) -> bool {
    if params.time == 0u {
        return true;
    }
    return row % params.time < sequences[row / params.time].y;
}

// Numbers of dy at `element` and after it, of which `count` are there.
fn dy_pair(element: u32, count: u32) -> vec2<f32> {
    if PAIRED == 1u && X != F32 {
        let pair = pair_in(dy[element >> 1u], X);
        return vec2<f32>(pair.x, select(0.0, pair.y, count > 1u));
    }
    let first = element_in(dy[word_of(element, X)], element, X);
    if count > 1u {
        return vec2<f32>(first, element_in(dy[word_of(element + 1u, X)], element + 1u, X));
    }
    return vec2<f32>(first, 0.0);
}

fn factor_pair(element: u32, count: u32) -> vec2<f32> {
    if PAIRED == 1u && Q != F32 {
        let pair = pair_in(factors[element >> 1u], Q);
        return vec2<f32>(pair.x, select(0.0, pair.y, count > 1u));
    }
    let first = element_in(factors[word_of(element, Q)], element, Q);
    if count > 1u {
        return vec2<f32>(first, element_in(factors[word_of(element + 1u, Q)], element + 1u, Q));
    }
    return vec2<f32>(first, 0.0);
}

// dy where y is above zero, y where that is NaN, and zero elsewhere. By the bits, since a device may take it that there are
// no NaN.
fn through_relu(values: vec2<f32>, y: vec2<f32>) -> vec2<f32> {
    let bits = bitcast<vec2<u32>>(y);
    let is_nan = (bits & vec2<u32>(0x7fffffffu)) > vec2<u32>(0x7f800000u);
    let positive = (bits > vec2<u32>(0u)) & (bits <= vec2<u32>(0x7f800000u));
    return select(select(vec2<f32>(0.0), values, positive), y, is_nan);
}

// Columns `output` and `output` + 1 of a row of da; zero past the outputs, the tokens, or a sequence.
fn da_pair(token: u32, output: u32) -> vec2<f32> {
    if token >= params.tokens || output >= params.outputs || !is_token(token) {
        return vec2<f32>(0.0);
    }
    let count = params.outputs - output;
    let values = dy_pair(token * params.dy_stride + params.dy_offset + output, count);
    if FACTOR == NOTHING {
        return values;
    }
    let factor = factor_pair(token * params.factor_stride + params.factor_offset + output, count);
    if FACTOR == RELU {
        return through_relu(values, factor);
    }
    return values * factor;
}
