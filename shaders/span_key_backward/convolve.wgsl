// The depthwise convolution of a span key alone: d = depthwise_K(x), computed again for the gradient of the pointwise matrix;
// or, along the mirrored window with the taps in reverse order, dx from the gradient of d. Either must move its input and
// its output once, and reads each number that a tile's window covers once for a tile.
//
// A workgroup makes a tile of outputs: `lanes` invocations side by side on the channels, `time_groups` of them along time,
// each with STEPS outputs of one channel. Every channel has its own filter, which few invocations share: they read it where
// it lies. Outputs of 16 bits that fill whole words are put together from those of two neighbours (PAIRS).

struct Params {
    tiles: Tiles,
    conv: Convolution,
    lanes: u32,
    time_groups: u32,
    depthwise_offset: u32,
    // Whether the last tap comes first.
    reversed: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> depthwise: array<u32>;

fn depthwise_at(channel: u32, tap: u32) -> f32 {
    let width = params.conv.width;
    if tap >= width {
        return 0.0;
    }
    let at = select(tap, width - 1u - tap, params.reversed == 1u);
    let element = params.depthwise_offset + channel * width + at;
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

// As `store_outputs`, for this channel and the next.
fn store_pairs(conv: Convolution, place: Place, outputs: ptr<function, Outputs>, next: array<vec4<f32>, 2>) {
    var others = next;
    for (var n = 0u; n < STEPS; n++) {
        let position = place.position + n * conv.dilation;
        if position < place.sequence.room {
            let element = (place.sequence.first + position) * conv.y_stride + conv.y_offset + place.channel;
            var pair = vec2<f32>(0.0);
            if position < place.sequence.length {
                pair = vec2<f32>((*outputs)[n], others[n / 4u][n % 4u]);
            }
            store_pair(element, pair);
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let tile = tile_of(params.tiles, id, grid);
    if tile.empty {
        return;
    }
    var place: Place;
    place.sequence = tile.sequence;
    place.index = tile.index;
    place.channel = tile.column * params.lanes + me % params.lanes;
    place.output = me / params.lanes * STEPS;
    place.position = position_of(params.tiles, tile, place.output);
    let works = me / params.lanes < params.time_groups && place.channel < params.conv.channels
        && place.position < tile.sequence.room;
    var outputs: Outputs;
    if works && place.position < tile.sequence.length {
        accumulate(params.conv, place, 0u, (params.conv.width + 3u) / 4u, &outputs);
    }
    if PAIRS == 0u {
        if works {
            store_outputs(params.conv, place, &outputs);
        }
        return;
    }
    memory[2u * me] = vec4<f32>(outputs[0], outputs[1], outputs[2], outputs[3]);
    memory[2u * me + 1u] = vec4<f32>(outputs[4], outputs[5], outputs[6], outputs[7]);
    workgroupBarrier();
    // Lanes and channels are even: the neighbour has the next channel of the same tokens.
    if works && (me & 1u) == 0u {
        store_pairs(params.conv, place, &outputs, array<vec4<f32>, 2>(memory[2u * me + 2u], memory[2u * me + 3u]));
    }
}
