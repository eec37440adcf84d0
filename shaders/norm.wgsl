// Layer norm and RMS norm of rows: y = (s - m) / sqrt(v + eps) weight + bias, with s = x or x + residual, m the mean of s
// (0 for an RMS norm) and v the mean of (s - m)^2; plus the residual where it comes after.
//
// A row has `lanes` invocations, 8 to 256 by its length, each with two neighbouring channels at a time, and a workgroup has
// as many rows as it has invocations for. The row is read once for each mean and once for the outputs, the later times
// mostly from the cache: a row is a few KiB. With SUM the output is s itself, of the same rows.

struct Params {
    tokens: u32,
    channels: u32,
    // Invocations of a row, a power of two.
    lanes: u32,
    eps: f32,
    // 1 for a layer norm, 0 for an RMS norm.
    layer: u32,
    // 0: none, 1: before, 2: after.
    residual: u32,
    has_bias: u32,
    // Workgroups there are; the grid may hold a few more.
    groups: u32,
    x_offset: u32,
    x_stride: u32,
    residual_offset: u32,
    residual_stride: u32,
    weight_offset: u32,
    bias_offset: u32,
    y_offset: u32,
    y_stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<u32>;
@group(0) @binding(3) var<storage, read> residual: array<u32>;
@group(0) @binding(4) var<storage, read> weight: array<u32>;
@group(0) @binding(5) var<storage, read> bias: array<u32>;

const BEFORE = 1u;
const AFTER = 2u;

var<workgroup> shared_numbers: array<f32, WORKGROUP>;

// Two numbers of x from `element` on, the second of them zero where there is none.
fn x_pair(element: u32, both: bool) -> vec2<f32> {
    if PAIRED == 1u {
        let pair = pair_in(x[element >> 1u], X);
        return vec2<f32>(pair.x, select(0.0, pair.y, both));
    }
    var pair = vec2<f32>(element_in(x[word_of(element, X)], element, X), 0.0);
    if both {
        pair.y = element_in(x[word_of(element + 1u, X)], element + 1u, X);
    }
    return pair;
}

// The same of the residual.
fn residual_pair(element: u32, both: bool) -> vec2<f32> {
    if PAIRED == 1u {
        let pair = pair_in(residual[element >> 1u], X);
        return vec2<f32>(pair.x, select(0.0, pair.y, both));
    }
    var pair = vec2<f32>(element_in(residual[word_of(element, X)], element, X), 0.0);
    if both {
        pair.y = element_in(residual[word_of(element + 1u, X)], element + 1u, X);
    }
    return pair;
}

// Two numbers of s.
fn s_pair(row: u32, column: u32, both: bool) -> vec2<f32> {
    let pair = x_pair(params.x_offset + row * params.x_stride + column, both);
    if params.residual != BEFORE {
        return pair;
    }
    return pair + residual_pair(params.residual_offset + row * params.residual_stride + column, both);
}

fn weight_at(column: u32) -> f32 {
    let element = params.weight_offset + column;
    return element_in(weight[word_of(element, P)], element, P);
}

fn bias_at(column: u32) -> f32 {
    if params.has_bias == 0u {
        return 0.0;
    }
    let element = params.bias_offset + column;
    return element_in(bias[word_of(element, P)], element, P);
}

fn store(row: u32, column: u32, both: bool, pair: vec2<f32>) {
    let element = params.y_offset + row * params.y_stride + column;
    if both {
        store_pair(element, pair);
    } else {
        store_one(element, pair.x);
    }
}

// The sum of the numbers of a row's invocations, in an order that is the same for every row.
fn total_in_row(me: u32, number: f32) -> f32 {
    // What was told before has been read by all.
    workgroupBarrier();
    shared_numbers[me] = number;
    workgroupBarrier();
    for (var half = params.lanes / 2u; half > 0u; half /= 2u) {
        if me % params.lanes < half {
            shared_numbers[me] += shared_numbers[me + half];
        }
        workgroupBarrier();
    }
    return shared_numbers[me - me % params.lanes];
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
    let row = group * (WORKGROUP / params.lanes) + me / params.lanes;
    let first = me % params.lanes * 2u;
    let step = params.lanes * 2u;
    // The last workgroup may have invocations for more rows than there are.
    let end = select(0u, params.channels, row < params.tokens);
    if SUM == 1u {
        for (var column = first; column < end; column += step) {
            let both = column + 1u < end;
            store(row, column, both, s_pair(row, column, both));
        }
        return;
    }
    let count = f32(params.channels);
    var mean = 0.0;
    if params.layer == 1u {
        var sum = vec2<f32>(0.0);
        for (var column = first; column < end; column += step) {
            sum += s_pair(row, column, column + 1u < end);
        }
        mean = total_in_row(me, sum.x + sum.y) / count;
    }
    var squares = vec2<f32>(0.0);
    for (var column = first; column < end; column += step) {
        let both = column + 1u < end;
        let d = s_pair(row, column, both) - vec2<f32>(mean, select(0.0, mean, both));
        squares += d * d;
    }
    let scale = inverseSqrt(total_in_row(me, squares.x + squares.y) / count + params.eps);
    for (var column = first; column < end; column += step) {
        let both = column + 1u < end;
        let next = select(column, column + 1u, both);
        // First by one over the root: what comes of that is no more than the root of C, and cannot overflow.
        var y = (s_pair(row, column, both) - mean) * scale;
        y = y * vec2<f32>(weight_at(column), weight_at(next)) + vec2<f32>(bias_at(column), bias_at(next));
        if params.residual == AFTER {
            y += residual_pair(params.residual_offset + row * params.residual_stride + column, both);
        }
        store(row, column, both, y);
    }
}
