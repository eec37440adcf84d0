// Gradients of a linear layer that are products of da [tokens, outputs]: its rows times W, dx = da W (and an addend), or its
// columns times those of x, dW = da^T x (OVER_TOKENS).
//
// A workgroup makes a tile of one of them by the product of shared/product.wgsl. The sum of dW runs over the tokens, of which
// there are many and of its tiles few, so that the tokens are divided into chunks: each makes a sum of its own, which
// reduce.wgsl adds up in the order of the chunks. At least dy, b and the output must move once; a tile reads its rows and
// columns once, as the forward pass does, so that arithmetic outweighs the memory.

// W or x: rows of `inputs` numbers, one for each number of the depth.
@group(0) @binding(5) var<storage, read> b: array<u32>;
// f32, added to dx before it is rounded.
@group(0) @binding(6) var<storage, read> addend: array<u32>;

// First row and column of the tile, and the tokens of the chunk.
var<private> first_row: u32;
var<private> first_column: u32;
var<private> first_token: u32;
var<private> end_token: u32;

// Rows along the depth: those of da, by their numbers.
fn row_quad(quad: u32) -> vec4<u32> {
    return vec4<u32>(first_row + 4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
}

fn row_pair(row: u32, k: u32) -> vec2<f32> {
    return da_pair(row, k);
}

// Rows across the depth: columns of da.
fn row_numbers(k: u32, quad: u32) -> vec4<f32> {
    let token = first_token + k;
    if token >= end_token {
        return vec4<f32>(0.0);
    }
    let output = first_row + 4u * quad;
    return vec4<f32>(da_pair(token, output), da_pair(token, output + 2u));
}

fn b_pair(element: u32, count: u32) -> vec2<f32> {
    if PAIRED == 1u && B != F32 {
        let pair = pair_in(b[element >> 1u], B);
        return vec2<f32>(pair.x, select(0.0, pair.y, count > 1u));
    }
    let first = element_in(b[word_of(element, B)], element, B);
    if count > 1u {
        return vec2<f32>(first, element_in(b[word_of(element + 1u, B)], element + 1u, B));
    }
    return vec2<f32>(first, 0.0);
}

fn column_numbers(k: u32, quad: u32) -> vec4<f32> {
    let row = first_token + k;
    let column = first_column + 4u * quad;
    if row >= end_token || column >= params.inputs || (OVER_TOKENS == 1u && !is_token(row)) {
        return vec4<f32>(0.0);
    }
    let element = row * params.b_stride + params.b_offset + column;
    let count = params.inputs - column;
    var second = vec2<f32>(0.0);
    if count > 2u {
        second = b_pair(element + 2u, count - 2u);
    }
    return vec4<f32>(b_pair(element, count), second);
}

fn addend_at(element: u32, column: u32) -> f32 {
    if column >= params.inputs {
        return 0.0;
    }
    return bitcast<f32>(addend[element + column]);
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let group = id.x + grid.x * (id.y + grid.y * id.z);
    if group >= params.groups {
        return;
    }
    let blocks = Blocks(params.row_groups, params.column_groups);
    let chunk = group / params.tiles;
    let tile = group % params.tiles;
    first_row = tile / params.columns * (blocks.rows * ROW_QUADS * 4u);
    first_column = tile % params.columns * (blocks.columns * COLUMN_QUADS * 4u);
    var rows = params.tokens;
    var depth = params.outputs;
    end_token = params.outputs;
    if OVER_TOKENS == 1u {
        rows = params.outputs;
        let begin = chunk * params.chunk;
        depth = min(params.chunk, params.tokens - begin);
        first_token = begin;
        end_token = begin + depth;
    }
    var sums: Sums;
    multiply(me, blocks, depth, &sums);
    if me >= blocks.rows * blocks.columns {
        return;
    }
    let row = first_row + me / blocks.columns * (ROW_QUADS * 4u);
    // The sums of a chunk lie behind those of the chunk before it.
    let first = params.y_offset + chunk * rows * params.inputs;
    for (var j = 0u; j < COLUMN_QUADS; j++) {
        let column = first_column + (me % blocks.columns * COLUMN_QUADS + j) * 4u;
        for (var r = 0u; r < 4u * ROW_QUADS; r++) {
            if row + r < rows {
                var values = sums[r * COLUMN_QUADS + j];
                if ADDEND == 1u {
                    let at = (row + r) * params.addend_stride + params.addend_offset;
                    values += vec4<f32>(
                        addend_at(at, column),
                        addend_at(at, column + 1u),
                        addend_at(at, column + 2u),
                        addend_at(at, column + 3u),
                    );
                }
                // Zeros of the padding may have met what is infinite.
                if OVER_TOKENS == 0u && !is_token(row + r) {
                    values = vec4<f32>(0.0);
                }
                store_quad((row + r) * params.y_stride + first + column, values, column, params.inputs);
            }
        }
    }
}
