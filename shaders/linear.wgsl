// A linear layer: y = residual + act(x W^T + bias).
//
// A workgroup makes a tile of y, by the product of shared/product.wgsl. The columns of that product are the rows of W, of
// one group; for a GLU those of its two halves in turn, so that a number and its gate are in one invocation.

struct Params {
    rows: u32,
    // Of a group.
    inputs: u32,
    outputs: u32,
    // 0: none; others as shared/activation.wgsl has them.
    activation: u32,
    has_bias: u32,
    has_residual: u32,
    x_offset: u32,
    x_stride: u32,
    weight_offset: u32,
    bias_offset: u32,
    residual_offset: u32,
    residual_stride: u32,
    y_offset: u32,
    y_stride: u32,
    // Row and column groups of a tile.
    row_groups: u32,
    column_groups: u32,
    // Tiles side by side on the columns of one group of outputs, and of all.
    group_columns: u32,
    columns: u32,
    // Workgroups there are; the grid may hold a few more.
    groups: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<u32>;
@group(0) @binding(3) var<storage, read> weight: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<u32>;
@group(0) @binding(5) var<storage, read> residual: array<u32>;

// First row and column of the tile, the column in its group.
var<private> first_row: u32;
var<private> first_column: u32;
var<private> output_group: u32;

fn x_at(element: u32) -> f32 {
    return element_in(x[word_of(element, X)], element, X);
}

fn row_quad(quad: u32) -> vec4<u32> {
    let rows = vec4<u32>(first_row + 4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    let elements = rows * params.x_stride + params.x_offset + output_group * params.inputs;
    return select(vec4<u32>(NOWHERE), elements, rows < vec4<u32>(params.rows));
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

// The rows of W, or those of two outputs of a GLU: number, gate, number, gate.
fn weight_rows(column: u32) -> vec4<u32> {
    let numbers = vec4<u32>(0u, 1u, 2u, 3u);
    if params.activation == GLU {
        return vec4<u32>(column / 2u) + numbers / 2u + numbers % 2u * params.outputs;
    }
    return vec4<u32>(output_group * params.outputs + column) + numbers;
}

// Which of four columns there are.
fn are_there(column: u32) -> vec4<bool> {
    let halves = select(1u, 2u, params.activation == GLU);
    return (vec4<u32>(column) + vec4<u32>(0u, 1u, 2u, 3u)) < vec4<u32>(halves * params.outputs);
}

fn column_quad(quad: u32) -> vec4<u32> {
    let column = first_column + 4u * quad;
    let elements = weight_rows(column) * params.inputs + params.weight_offset;
    return select(vec4<u32>(NOWHERE), elements, are_there(column));
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

fn bias_at(weight_row: u32, is_there: bool) -> f32 {
    if params.has_bias == 0u || !is_there {
        return 0.0;
    }
    let element = params.bias_offset + weight_row;
    return element_in(bias[word_of(element, P)], element, P);
}

fn residual_at(element: u32, is_there: bool) -> f32 {
    if !is_there {
        return 0.0;
    }
    return element_in(residual[word_of(element, Y)], element, Y);
}

// What becomes of the sums of four columns from `column` on, in one row: so many outputs as there are halves less.
fn finish(row: u32, column: u32, sums: vec4<f32>) {
    let gated = params.activation == GLU;
    var output = column;
    var end = params.outputs;
    var values: vec4<f32>;
    if gated {
        output = column / 2u;
        // Two of them, and another invocation has the next.
        end = min(end, output + 2u);
        values = vec4<f32>(sums.xz * sigmoid(sums.ywyw).xy, 0.0, 0.0);
    } else {
        values = activate(params.activation, sums);
    }
    let in_row = output_group * params.outputs + output;
    if params.has_residual != 0u {
        let element = row * params.residual_stride + params.residual_offset + in_row;
        let there = (vec4<u32>(output) + vec4<u32>(0u, 1u, 2u, 3u)) < vec4<u32>(end);
        let a = vec2<f32>(residual_at(element, there.x), residual_at(element + 1u, there.y));
        let b = vec2<f32>(residual_at(element + 2u, there.z), residual_at(element + 3u, there.w));
        values += vec4<f32>(a, b);
    }
    store_quad(row * params.y_stride + params.y_offset + in_row, values, output, end);
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
    let across = group % params.columns;
    output_group = across / params.group_columns;
    first_column = across % params.group_columns * (blocks.columns * COLUMN_QUADS * 4u);
    var sums: Sums;
    multiply(me, blocks, params.inputs, &sums);
    if me >= blocks.rows * blocks.columns {
        return;
    }
    let row = first_row + me / blocks.columns * (ROW_QUADS * 4u);
    for (var j = 0u; j < COLUMN_QUADS; j++) {
        let column = first_column + (me % blocks.columns * COLUMN_QUADS + j) * 4u;
        let rows = weight_rows(column);
        let there = are_there(column);
        let a = vec2<f32>(bias_at(rows.x, there.x), bias_at(rows.y, there.y));
        let biases = vec4<f32>(a, bias_at(rows.z, there.z), bias_at(rows.w, there.w));
        for (var r = 0u; r < 4u * ROW_QUADS; r++) {
            if row + r < params.rows {
                finish(row + r, column, sums[r * COLUMN_QUADS + j] + biases);
            }
        }
    }
}
