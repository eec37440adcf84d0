// Light convolution: y[t, c] = bias[c] + sum_j w[h(c), j] x[t + j r - P, c], w = normalize(weight).
//
// A workgroup makes a tile of outputs: `lanes` invocations side by side on the channels, `time_groups` of them along
// time, each with STEPS outputs. It normalises the filters of its heads once, in its memory; where they have more taps than
// that holds, chunk by chunk.
//
// The softmax is over all taps; over those in range it differs from token to token, and is dynamic_conv's work.
//
// The gradient of x is the same convolution, of dy along the mirrored window.

struct Params {
    tiles: Tiles,
    conv: Convolution,
    lanes: u32,
    time_groups: u32,
    // Quads of a chunk.
    quads: u32,
    weight_offset: u32,
    dropout: Dropout,
    // Whether the window is the mirrored one of a gradient that flows back: its first tap has the weight's last number.
    reversed: u32,
    unused_1: u32,
    unused_2: u32,
    unused_3: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> weight: array<u32>;
@group(0) @binding(6) var<storage, read> bias: array<u32>;

fn parameter(word: u32, element: u32) -> f32 {
    return element_in(word, element, P);
}

fn bias_at(channel: u32) -> f32 {
    if params.conv.has_bias == 0u {
        return 0.0;
    }
    let element = params.conv.bias_offset + channel;
    return parameter(bias[word_of(element, P)], element);
}

// The number of a tap in the weight, of one that there is.
fn number_of(tap: u32) -> u32 {
    return select(tap, params.conv.width - 1u - tap, params.reversed == 1u);
}

// A tap before normalisation; zero past the window.
fn tap_at(head: u32, tap: u32) -> f32 {
    if tap >= params.conv.width {
        return 0.0;
    }
    let element = params.weight_offset + head * params.conv.width + number_of(tap);
    return parameter(weight[word_of(element, P)], element);
}

// The tile's heads, which have the rows of the taps. (Invocations have these in common; but WGSL does not take a private
// variable for uniform, so what barriers depend on is passed on by value.)
var<private> first_head: u32;
var<private> heads: u32;

fn fill(me: u32, chunk: Chunk) {
    for (var i = me; i < chunk.rows * chunk.quads; i += WORKGROUP) {
        let quad = i % chunk.quads;
        let row = i / chunk.quads;
        let head = first_head + row;
        let tap = 4u * (chunk.first_quad + quad);
        memory[quad * chunk.rows + row] =
            vec4<f32>(tap_at(head, tap), tap_at(head, tap + 1u), tap_at(head, tap + 2u), tap_at(head, tap + 3u));
    }
}

fn range_of(row: u32) -> vec2<u32> {
    return vec2<u32>(0u, params.conv.width);
}

fn factors_of(row: u32, quad: u32) -> vec4<f32> {
    let head = first_head + row;
    if params.reversed == 0u {
        return factors(params.dropout, quad, head, 0u);
    }
    // Numbers before the first come out as those of taps that there are not.
    let last = number_of(4u * quad);
    return vec4<f32>(
        factor(params.dropout, last, head, 0u),
        factor(params.dropout, last - 1u, head, 0u),
        factor(params.dropout, last - 2u, head, 0u),
        factor(params.dropout, last - 3u, head, 0u),
    );
}

fn taps_of(place: Place, quad: u32, step: u32) -> Taps {
    let first = memory[quad * heads + place.heads.x];
    if SPLIT == 1u {
        return Taps(first, memory[quad * heads + place.heads.y]);
    }
    return Taps(first, first);
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let tiles = params.tiles;
    let conv = params.conv;
    let tile = tile_of(tiles, id, grid);
    if tile.empty {
        return;
    }
    let first_channel = tile.column * params.lanes * CHANNELS;
    let end_channel = min(first_channel + params.lanes * CHANNELS, conv.channels);
    let begin_head = first_channel / conv.head_channels;
    let tile_heads = (end_channel - 1u) / conv.head_channels - begin_head + 1u;
    first_head = begin_head;
    heads = tile_heads;

    var place: Place;
    place.sequence = tile.sequence;
    place.index = tile.index;
    place.channel = first_channel + me % params.lanes * CHANNELS;
    place.heads.x = place.channel / conv.head_channels - begin_head;
    place.heads.y = (place.channel + CHANNELS - 1u) / conv.head_channels - begin_head;
    place.output = me / params.lanes * STEPS;
    place.position = position_of(tiles, tile, place.output);
    let works = me / params.lanes < params.time_groups && place.channel < end_channel
        && place.position < tile.sequence.room;

    var outputs: Outputs;
    if works {
        let value = channels_of(bias_at(place.channel), bias_at(place.channel + CHANNELS - 1u));
        for (var n = 0u; n < STEPS; n++) {
            outputs[n] = value;
        }
    }
    let all = (conv.width + 3u) / 4u;
    let softmax = measure(me, tile_heads, params.quads, conv.normalize, conv.width);
    for (var first = 0u; first < all; first += params.quads) {
        let chunk = Chunk(tile_heads, first, min(params.quads, all - first));
        load_weights(me, chunk, conv.normalize, conv.width, softmax, params.dropout);
        if works {
            accumulate(conv, place, first, chunk.quads, &outputs);
        }
    }
    if works {
        store_outputs(conv, place, &outputs);
    }
}
