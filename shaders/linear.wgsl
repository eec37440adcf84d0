// A linear layer: y = act(x W^T + bias).
//
// A workgroup makes a tile of y, by the product of shared/product.wgsl.

struct Params {
    rows: u32,
    inputs: u32,
    outputs: u32,
    // 0: none, 1: max(0, y).
    activation: u32,
    has_bias: u32,
    x_offset: u32,
    x_stride: u32,
    weight_offset: u32,
    bias_offset: u32,
    y_offset: u32,
    y_stride: u32,
    // Row and column groups of a tile.
    row_groups: u32,
    column_groups: u32,
    // Tiles side by side on the columns.
    columns: u32,
    // Workgroups there are; the grid may hold a few more.
    groups: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<u32>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<u32>;

// First row and column of the tile.
var<private> first_row: u32;
var<private> first_column: u32;

fn x_at(element: u32) -> f32 {
    return element_in(x[word_of(element, X)], element, X);
}

fn row_quad(quad: u32) -> vec4<u32> {
    let rows = vec4<u32>(first_row + 4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<u32>(NOWHERE), rows * params.x_stride + params.x_offset, rows < vec4<u32>(params.rows));
}

fn row_pair(begin: u32, k: u32) -> vec2<f32> {
    if begin == NOWHERE || k >= params.inputs {
        return vec2<f32>(0.0);
    }
    let element = begin + k;
    if PAIRED == 1u && X != F32 {
        return pair_in(x[element >> 1u], X);
    }
    if k + 1u < params.inputs {
        return vec2<f32>(x_at(element), x_at(element + 1u));
    }
    return vec2<f32>(x_at(element), 0.0);
}

fn weight_at(element: u32) -> f32 {
    return element_in(weight[word_of(element, P)], element, P);
}

fn column_quad(quad: u32) -> vec4<u32> {
    let columns = vec4<u32>(first_column + 4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    let elements = columns * params.inputs + params.weight_offset;
    return select(vec4<u32>(NOWHERE), elements, columns < vec4<u32>(params.outputs));
}

fn column_pair(begin: u32, k: u32) -> vec2<f32> {
    if begin == NOWHERE || k >= params.inputs {
        return vec2<f32>(0.0);
    }
    let element = begin + k;
    if PAIRED == 1u && P != F32 {
        return pair_in(weight[element >> 1u], P);
    }
    if k + 1u < params.inputs {
        return vec2<f32>(weight_at(element), weight_at(element + 1u));
    }
    return vec2<f32>(weight_at(element), 0.0);
}

fn bias_at(column: u32) -> f32 {
    if params.has_bias == 0u || column >= params.outputs {
        return 0.0;
    }
    let element = params.bias_offset + column;
    return element_in(bias[word_of(element, P)], element, P);
}

fn activate(values: vec4<f32>) -> vec4<f32> {
    if params.activation == 0u {
        return values;
    }
    // By the bits, since a device may take it that there are no NaN: those stay.
    let bits = bitcast<vec4<u32>>(values);
    let negative = (bits >= vec4<u32>(0x80000000u)) & (bits <= vec4<u32>(0xff800000u));
    return select(values, vec4<f32>(0.0), negative);
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
    first_row = group / params.columns * (blocks.rows * ROW_QUADS * 4u);
    first_column = group % params.columns * (blocks.columns * COLUMN_QUADS * 4u);
    var sums: Sums;
    multiply(me, blocks, params.inputs, &sums);
    if me >= blocks.rows * blocks.columns {
        return;
    }
    let row = first_row + me / blocks.columns * (ROW_QUADS * 4u);
    for (var j = 0u; j < COLUMN_QUADS; j++) {
        let column = first_column + (me % blocks.columns * COLUMN_QUADS + j) * 4u;
        let biases = vec4<f32>(bias_at(column), bias_at(column + 1u), bias_at(column + 2u), bias_at(column + 3u));
        for (var r = 0u; r < 4u * ROW_QUADS; r++) {
            if row + r < params.rows {
                let element = (row + r) * params.y_stride + params.y_offset + column;
                store_quad(element, activate(sums[r * COLUMN_QUADS + j] + biases), column, params.outputs);
            }
        }
    }
}
