// The span-aware key: z[t] = (pointwise (depthwise_K(x))[t] + key_bias) q[t].
//
// A workgroup makes a tile of z by the product of shared/product.wgsl. Its rows are tokens after the depthwise
// convolution, made on the way into the workgroup's memory, DEPTH channels at a time; bias and q go in on the way out.

struct Params {
    tiles: Tiles,
    conv: Convolution,
    outputs: u32,
    // Row and column groups of a tile.
    row_groups: u32,
    column_groups: u32,
    depthwise_offset: u32,
    pointwise_offset: u32,
    query_offset: u32,
    query_stride: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> depthwise: array<u32>;
@group(0) @binding(6) var<storage, read> pointwise: array<u32>;
@group(0) @binding(7) var<storage, read> key_bias: array<u32>;
@group(0) @binding(8) var<storage, read> query: array<u32>;

// What the workgroup works on, for those who fill its memory. (WGSL does not take a private variable for uniform, so what
// barriers depend on is passed on by value.)
var<private> tile: Tile;
var<private> first_column: u32;

fn depthwise_at(channel: u32, tap: u32) -> f32 {
    if tap >= params.conv.width {
        return 0.0;
    }
    let element = params.depthwise_offset + channel * params.conv.width + tap;
    return element_in(depthwise[word_of(element, P)], element, P);
}

fn taps_of(place: Place, quad: u32, step: u32) -> Taps {
    let taps = vec4<f32>(
        depthwise_at(place.channel, 4u * quad),
        depthwise_at(place.channel, 4u * quad + 1u),
        depthwise_at(place.channel, 4u * quad + 2u),
        depthwise_at(place.channel, 4u * quad + 3u),
    );
    return Taps(taps, taps);
}

// Convolved channels, STEPS tokens of each for an invocation; zero past the channels or the sequence.
fn stage_rows(me: u32, blocks: Blocks, first: u32) {
    let steps = blocks.rows * ROW_QUADS * 4u / STEPS;
    for (var i = me; i < DEPTH * steps; i += WORKGROUP) {
        let k = i % DEPTH;
        var place: Place;
        place.sequence = tile.sequence;
        place.index = tile.index;
        place.channel = first + k;
        place.output = i / DEPTH * STEPS;
        place.position = position_of(params.tiles, tile, place.output);
        var outputs: Outputs;
        if place.channel < params.conv.channels && place.position < tile.sequence.length {
            accumulate(params.conv, place, 0u, (params.conv.width + 3u) / 4u, &outputs);
        }
        let at = k * row_stride(blocks) + place.output / 4u;
        memory[at] = vec4<f32>(outputs[0], outputs[1], outputs[2], outputs[3]);
        memory[at + 1u] = vec4<f32>(outputs[4], outputs[5], outputs[6], outputs[7]);
    }
}

fn pointwise_at(element: u32) -> f32 {
    return element_in(pointwise[word_of(element, P)], element, P);
}

fn column_quad(quad: u32) -> vec4<u32> {
    let columns = vec4<u32>(first_column + 4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    let elements = columns * params.conv.channels + params.pointwise_offset;
    return select(vec4<u32>(NOWHERE), elements, columns < vec4<u32>(params.outputs));
}

fn column_pair(begin: u32, k: u32) -> vec2<f32> {
    if begin == NOWHERE || k >= params.conv.channels {
        return vec2<f32>(0.0);
    }
    let element = begin + k;
    if PAIRED == 1u && P != F32 {
        return pair_in(pointwise[element >> 1u], P);
    }
    if k + 1u < params.conv.channels {
        return vec2<f32>(pointwise_at(element), pointwise_at(element + 1u));
    }
    return vec2<f32>(pointwise_at(element), 0.0);
}

fn key_bias_at(column: u32) -> f32 {
    if params.conv.has_bias == 0u || column >= params.outputs {
        return 0.0;
    }
    let element = params.conv.bias_offset + column;
    return element_in(key_bias[word_of(element, P)], element, P);
}

fn query_at(row: u32, column: u32) -> f32 {
    if column >= params.outputs {
        return 0.0;
    }
    let element = row * params.query_stride + params.query_offset + column;
    return element_in(query[word_of(element, Q)], element, Q);
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let here = tile_of(params.tiles, id, grid);
    if here.empty {
        return;
    }
    tile = here;
    let blocks = Blocks(params.row_groups, params.column_groups);
    first_column = tile.column * (blocks.columns * COLUMN_QUADS * 4u);
    var sums: Sums;
    multiply(me, blocks, params.conv.channels, &sums);
    if me >= blocks.rows * blocks.columns {
        return;
    }
    let first_output = me / blocks.columns * (ROW_QUADS * 4u);
    for (var j = 0u; j < COLUMN_QUADS; j++) {
        let column = first_column + (me % blocks.columns * COLUMN_QUADS + j) * 4u;
        let biases =
            vec4<f32>(key_bias_at(column), key_bias_at(column + 1u), key_bias_at(column + 2u), key_bias_at(column + 3u));
        for (var r = 0u; r < 4u * ROW_QUADS; r++) {
            let position = position_of(params.tiles, tile, first_output + r);
            if position < tile.sequence.room {
                let row = tile.sequence.first + position;
                var values = vec4<f32>(0.0);
                if position < tile.sequence.length {
                    let queries = vec4<f32>(
                        query_at(row, column),
                        query_at(row, column + 1u),
                        query_at(row, column + 2u),
                        query_at(row, column + 3u),
                    );
                    values = (sums[r * COLUMN_QUADS + j] + biases) * queries;
                }
                let element = row * params.conv.y_stride + params.conv.y_offset + column;
                store_quad(element, values, column, params.outputs);
            }
        }
    }
}
