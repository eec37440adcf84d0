// The gradient of a light convolution's weights after normalisation and dropout, in parts:
// g[h, j] = sum_t sum_c dy[t, c] x[t + j r - P, c] over the channels c of head h.
//
// It must read x and dy once, and multiply K numbers of each token and channel. An invocation has TAPS sums in registers: it
// walks along the time of its channels, with the tokens that its taps see sliding through registers, so that a number of
// dy and one of x feed TAPS multiply-adds. Wider windows are divided among workgroups, neighbours in the grid, which read
// the same tokens at about the same time.
//
// A workgroup has a part of all tiles, a column of channels and a group of taps. At its end it sums over its invocations,
// head by head; a head of several columns is summed by light_conv_backward/reduce.wgsl, which also undoes the softmax.

const TAPS = 4u * TAP_QUADS;

struct Params {
    tiles: Tiles,
    conv: Convolution,
    gradient: Gradient,
    lanes: u32,
    time_groups: u32,
    // Times STEPS outputs that an invocation has of a tile, of one phase.
    run: u32,
    // Columns of channels.
    channel_columns: u32,
    tap_groups: u32,
    // Heads that a column can touch.
    heads: u32,
    // Whether only tokens count whose taps are all in range.
    interior: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

alias Sums = array<Channels, TAPS>;

// Whether a token counts.
fn counts(conv: Convolution, place: Place, position: u32) -> bool {
    if position >= place.sequence.length {
        return false;
    }
    return params.interior == 0u
        || (position >= conv.left && place.sequence.length - position > conv.reach - conv.left);
}

// Adds what the run of an invocation in a tile has for the taps from `first_tap` on.
fn add_run(conv: Convolution, place: Place, first_tap: u32, sums: ptr<function, Sums>) {
    let dilation = i32(conv.dilation);
    let length = i32(place.sequence.length);
    // Of the token under the first tap, and of the output.
    var at = i32(place.position) - i32(conv.left) + i32(first_tap) * dilation;
    var position = place.position;
    // tokens[n + j] is that of step n and tap j.
    var tokens: array<Channels, STEPS + TAPS - 1u>;
    for (var i = 0u; i < TAPS - 1u; i++) {
        tokens[i] = token(conv, place, at + i32(i) * dilation);
    }
    for (var block = 0u; block < params.run; block++) {
        for (var i = TAPS - 1u; i < STEPS + TAPS - 1u; i++) {
            tokens[i] = token(conv, place, at + i32(i) * dilation);
        }
        let last_output = position + (STEPS - 1u) * conv.dilation;
        let last = at + i32(STEPS + TAPS - 2u) * dilation;
        let all_count = counts(conv, place, position) && counts(conv, place, last_output);
        if all_count && at >= 0 && last >= at && last < length {
            for (var n = 0u; n < STEPS; n++) {
                let row = place.sequence.first + position + n * conv.dilation;
                let element = row * params.gradient.dy_stride + params.gradient.dy_offset + place.channel;
                let value = channels_in(dy[word_of(element, X)], element, X);
                for (var j = 0u; j < TAPS; j++) {
                    (*sums)[j] = fma(value, tokens[n + j], (*sums)[j]);
                }
            }
        } else {
            // What is out of range is left out by selection: neither side of a product may be infinite.
            for (var n = 0u; n < STEPS; n++) {
                let output = position + n * conv.dilation;
                if counts(conv, place, output) {
                    let row = place.sequence.first + output;
                    let element = row * params.gradient.dy_stride + params.gradient.dy_offset + place.channel;
                    let value = channels_in(dy[word_of(element, X)], element, X);
                    for (var j = 0u; j < TAPS; j++) {
                        let under = at + i32(n + j) * dilation;
                        let used = select(Channels(), value, under >= 0 && under < length);
                        (*sums)[j] = fma(used, tokens[n + j], (*sums)[j]);
                    }
                }
            }
        }
        for (var i = 0u; i < TAPS - 1u; i++) {
            tokens[i] = tokens[i + STEPS];
        }
        at += i32(STEPS) * dilation;
        position += STEPS * conv.dilation;
    }
}

// Puts the sum over the time groups of number `me` of `count` at memory[at + me].
fn sum_times(me: u32, count: u32, at: u32) {
    var total = vec4<f32>(0.0);
    if me < count {
        for (var group = 0u; group < params.time_groups; group++) {
            total += memory[at + group * count + me];
        }
    }
    workgroupBarrier();
    if me < count {
        memory[at + me] = total;
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let conv = params.conv;
    let group = group_of(id, grid);
    let tap_group = group % params.tap_groups;
    let column = group / params.tap_groups % params.channel_columns;
    let part = group / params.tap_groups / params.channel_columns;
    if part >= params.gradient.parts {
        return;
    }
    let first_tap = tap_group * TAPS;
    let first_channel = column * params.lanes * CHANNELS;
    let end_channel = min(first_channel + params.lanes * CHANNELS, conv.channels);

    var place: Place;
    place.channel = first_channel + me % params.lanes * CHANNELS;
    place.output = me / params.lanes * params.run * STEPS;
    let works = me / params.lanes < params.time_groups && place.channel < end_channel;
    var sums: Sums;
    for (var i = 0u; i < params.gradient.tiles_of_part; i++) {
        let tile = tile_at(params.tiles, part * params.gradient.tiles_of_part + i);
        if works && !tile.empty {
            place.sequence = tile.sequence;
            place.index = tile.index;
            place.position = position_of(params.tiles, tile, place.output);
            if place.position < tile.sequence.length {
                add_run(conv, place, first_tap, &sums);
            }
        }
    }

    let begin_head = first_channel / conv.head_channels;
    let slot = (part * params.channel_columns + column) * params.heads;
    for (var quad = 0u; quad < TAP_QUADS; quad++) {
        workgroupBarrier();
        let a = sums[4u * quad];
        let b = sums[4u * quad + 1u];
        let c = sums[4u * quad + 2u];
        let d = sums[4u * quad + 3u];
        let first = vec4<f32>(first_of(a), first_of(b), first_of(c), first_of(d));
        let second = vec4<f32>(second_of(a), second_of(b), second_of(c), second_of(d));
        if SPLIT == 1u {
            memory[me] = first;
            memory[WORKGROUP + me] = second;
        } else {
            memory[me] = first + second;
        }
        workgroupBarrier();
        sum_times(me, params.lanes, 0u);
        if SPLIT == 1u {
            sum_times(me, params.lanes, WORKGROUP);
        }
        workgroupBarrier();
        for (var head = me; head < params.heads; head += WORKGROUP) {
            let begin = max((begin_head + head) * conv.head_channels, first_channel) - first_channel;
            let end = min((begin_head + head + 1u) * conv.head_channels, end_channel) - first_channel;
            var total = vec4<f32>(0.0);
            if begin_head + head < conv.channels / conv.head_channels {
                if SPLIT == 1u {
                    for (var channel = begin; channel < end; channel++) {
                        total += memory[channel % 2u * WORKGROUP + channel / 2u];
                    }
                } else {
                    for (var lane = begin / CHANNELS; lane < end / CHANNELS; lane++) {
                        total += memory[lane];
                    }
                }
            }
            let element = ((slot + head) * params.tap_groups + tap_group) * TAPS + 4u * quad + conv.y_offset;
            store_pair(element, total.xy);
            store_pair(element + 2u, total.zw);
        }
    }
}
