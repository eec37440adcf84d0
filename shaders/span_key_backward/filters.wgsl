// The gradient of depthwise filters: ddepthwise[c, j] = sum_t dd[t, c] x[t + j r - P, c], in parts, each the sum over a chunk
// of tiles, which reduce.wgsl adds up in order. dd and x must be read once; here once for every TAPS taps, and x again where
// the windows of neighbouring runs overlap.
//
// An invocation sums TAPS taps of one channel: for a run of STEPS tokens, one dilation apart, that takes STEPS numbers of dd
// and STEPS + TAPS - 1 of x, each loaded once. `lanes` invocations are side by side on the channels; `groups_of_time` of
// them take turns with the tiles of the chunk, and their sums are added up in the workgroup's memory.

const TAPS = 8u;

struct Params {
    tiles: Tiles,
    channels: u32,
    width: u32,
    // Tokens before the output that the first tap reads, P.
    left: u32,
    x_offset: u32,
    x_stride: u32,
    dd_offset: u32,
    dd_stride: u32,
    y_offset: u32,
    lanes: u32,
    time_groups: u32,
    // Lanes of channels side by side, and groups of TAPS taps.
    channel_parts: u32,
    tap_parts: u32,
    // Tiles of a chunk.
    chunk: u32,
    // Workgroups there are; the grid may hold a few more.
    all_groups: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> x: array<u32>;
// f32.
@group(0) @binding(4) var<storage, read> dd: array<u32>;

alias Sums = array<f32, TAPS>;

// x of a channel at a position of a sequence; zero where there is none.
fn x_at(sequence: Sequence, position: i32, channel: u32) -> f32 {
    if position < 0 || u32(position) >= sequence.length {
        return 0.0;
    }
    let element = (sequence.first + u32(position)) * params.x_stride + params.x_offset + channel;
    return element_in(x[word_of(element, X)], element, X);
}

fn dd_at(sequence: Sequence, position: u32, channel: u32) -> f32 {
    if position >= sequence.length {
        return 0.0;
    }
    return bitcast<f32>(dd[(sequence.first + position) * params.dd_stride + params.dd_offset + channel]);
}

// Adds STEPS tokens from `position` on.
fn add_run(sequence: Sequence, position: u32, channel: u32, first_tap: u32, sums: ptr<function, Sums>) {
    let dilation = params.tiles.dilation;
    let length = i32(sequence.length);
    var gradients: array<f32, STEPS>;
    for (var n = 0u; n < STEPS; n++) {
        gradients[n] = dd_at(sequence, position + n * dilation, channel);
    }
    let begin = i32(position) - i32(params.left) + i32(first_tap * dilation);
    let end = begin + i32((STEPS + TAPS - 2u) * dilation);
    if end < 0 || begin >= length {
        return;
    }
    var tokens: array<f32, STEPS + TAPS - 1u>;
    for (var i = 0u; i < STEPS + TAPS - 1u; i++) {
        tokens[i] = x_at(sequence, begin + i32(i * dilation), channel);
    }
    let interior = begin >= 0 && end < length && position + (STEPS - 1u) * dilation < sequence.length;
    for (var n = 0u; n < STEPS; n++) {
        // What is out of range is left out by selection: either number may be infinite.
        let is_token = position + n * dilation < sequence.length;
        for (var j = 0u; j < TAPS; j++) {
            let at = begin + i32((n + j) * dilation);
            if interior || (is_token && at >= 0 && at < length) {
                (*sums)[j] = fma(gradients[n], tokens[n + j], (*sums)[j]);
            }
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let group = id.x + grid.x * (id.y + grid.y * id.z);
    if group >= params.all_groups {
        return;
    }
    let tiles = params.tiles;
    let first_tap = group % params.tap_parts * TAPS;
    let rest = group / params.tap_parts;
    let channel = rest % params.channel_parts * params.lanes + me % params.lanes;
    let chunk = rest / params.channel_parts;
    let time_group = me / params.lanes;
    let works = time_group < params.time_groups && channel < params.channels;
    var sums: Sums;
    if works {
        let begin = chunk * params.chunk;
        let end = min(begin + params.chunk, tiles.groups);
        for (var number = begin + time_group; number < end; number += params.time_groups) {
            let tile = tile_of(tiles, vec3<u32>(number, 0u, 0u), vec3<u32>(1u));
            if !tile.empty {
                for (var output = 0u; output < tiles.phases * tiles.steps; output += STEPS) {
                    let position = position_of(tiles, tile, output);
                    if position < tile.sequence.length {
                        add_run(tile.sequence, position, channel, first_tap, &sums);
                    }
                }
            }
        }
    }
    memory[2u * me] = vec4<f32>(sums[0], sums[1], sums[2], sums[3]);
    memory[2u * me + 1u] = vec4<f32>(sums[4], sums[5], sums[6], sums[7]);
    workgroupBarrier();
    if !works || time_group > 0u {
        return;
    }
    var first = memory[2u * me];
    var second = memory[2u * me + 1u];
    for (var i = 1u; i < params.time_groups; i++) {
        first += memory[2u * (me + i * params.lanes)];
        second += memory[2u * (me + i * params.lanes) + 1u];
    }
    let element = params.y_offset + (chunk * params.channels + channel) * params.width + first_tap;
    for (var j = 0u; j < 4u; j++) {
        if first_tap + j < params.width {
            store_one(element + j, first[j]);
        }
        if first_tap + 4u + j < params.width {
            store_one(element + 4u + j, second[j]);
        }
    }
}
