// Dynamic convolution: y[t, c] = bias[c] + sum_j normalize(logits)[t, h(c), j] x[t + j r - P, c], with logits
// W q[t] + w_bias made here (GENERATED), or given.
//
// A workgroup makes the outputs of a tile of tokens, for some heads. The taps of each of its tokens and heads are a row in
// its memory: a tile of the generating product leaves its logits there, or they are loaded from those given, chunk by
// chunk where they are more than it holds. They are normalised in place, and never go back to the device's memory.
//
// With a logit stride of 0 every token has the same logits: light convolution with a softmax over the taps in range.
//
// The gradient of x is the same convolution, of dy along the mirrored window, with taps that are gathered from other tokens
// (shared/gathered_taps.wgsl).

struct Params {
    tiles: Tiles,
    conv: Convolution,
    dropout: Dropout,
    logits: Logits,
    // Quads of a chunk: all of them where they are generated.
    quads: u32,
    // Row and column groups of the generating product.
    row_groups: u32,
    column_groups: u32,
    query_channels: u32,
    query_offset: u32,
    query_stride: u32,
    weight_bias_offset: u32,
    has_weight_bias: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(6) var<storage, read> bias: array<u32>;
@group(0) @binding(7) var<storage, read> query: array<u32>;
@group(0) @binding(8) var<storage, read> weight_bias: array<u32>;

fn bias_at(channel: u32) -> f32 {
    if params.conv.has_bias == 0u {
        return 0.0;
    }
    let element = params.conv.bias_offset + channel;
    return element_in(bias[word_of(element, P)], element, P);
}

fn taps_of(place: Place, quad: u32, step: u32) -> Taps {
    let at = quad * params.logits.heads * tokens + place.output + step;
    let first = memory[at + place.heads.x * tokens];
    if SPLIT == 1u {
        return Taps(first, memory[at + place.heads.y * tokens]);
    }
    return Taps(first, first);
}

fn query_at(element: u32) -> f32 {
    return element_in(query[word_of(element, Q)], element, Q);
}

// Where the queries of four tokens of the tile begin: they are of one phase, so a dilation apart.
fn row_quad(quad: u32) -> vec4<u32> {
    let position = position_of(params.tiles, tile, 4u * quad);
    let positions = vec4<u32>(position) + vec4<u32>(0u, 1u, 2u, 3u) * params.tiles.dilation;
    let elements = (vec4<u32>(tile.sequence.first) + positions) * params.query_stride + params.query_offset;
    return select(vec4<u32>(NOWHERE), elements, positions < vec4<u32>(tile.sequence.length));
}

fn row_pair(begin: u32, k: u32) -> vec2<f32> {
    if begin == NOWHERE || k >= params.query_channels {
        return vec2<f32>(0.0);
    }
    let element = begin + k;
    if PAIRED == 1u && Q != F32 {
        return pair_in(query[element >> 1u], Q);
    }
    if k + 1u < params.query_channels {
        return vec2<f32>(query_at(element), query_at(element + 1u));
    }
    return vec2<f32>(query_at(element), 0.0);
}

fn weight_at(element: u32) -> f32 {
    return element_in(source[word_of(element, S)], element, S);
}

// Where the rows of W begin for four columns of the tile: they are taps of one head, head after head.
fn column_quad(quad: u32) -> vec4<u32> {
    let head = first_head + quad / params.quads;
    let taps = vec4<u32>(quad % params.quads * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    let rows = head * params.conv.width + taps;
    let elements = rows * params.query_channels + params.logits.source_offset;
    let there = taps < vec4<u32>(select(0u, params.conv.width, head < params.logits.all_heads));
    return select(vec4<u32>(NOWHERE), elements, there);
}

fn column_pair(begin: u32, k: u32) -> vec2<f32> {
    if begin == NOWHERE || k >= params.query_channels {
        return vec2<f32>(0.0);
    }
    let element = begin + k;
    if PAIRED == 1u && S != F32 {
        return pair_in(source[element >> 1u], S);
    }
    if k + 1u < params.query_channels {
        return vec2<f32>(weight_at(element), weight_at(element + 1u));
    }
    return vec2<f32>(weight_at(element), 0.0);
}

fn weight_bias_at(head: u32, tap: u32) -> f32 {
    if params.has_weight_bias == 0u || head >= params.logits.all_heads || tap >= params.conv.width {
        return 0.0;
    }
    let element = params.weight_bias_offset + head * params.conv.width + tap;
    return element_in(weight_bias[word_of(element, P)], element, P);
}

// The logits of the tile, from its queries and W, into memory.
fn generate(me: u32) {
    let blocks = Blocks(params.row_groups, params.column_groups);
    var sums: Sums;
    multiply(me, blocks, params.query_channels, &sums);
    // The operands have been read: logits take their place.
    workgroupBarrier();
    let column_quad = me % blocks.columns;
    if me < blocks.rows * blocks.columns && column_quad < params.logits.heads * params.quads {
        let head = column_quad / params.quads;
        let quad = column_quad % params.quads;
        let tap = 4u * quad;
        let h = first_head + head;
        let biases = vec4<f32>(
            weight_bias_at(h, tap),
            weight_bias_at(h, tap + 1u),
            weight_bias_at(h, tap + 2u),
            weight_bias_at(h, tap + 3u),
        );
        let at = (quad * params.logits.heads + head) * tokens + 4u * (me / blocks.columns);
        for (var r = 0u; r < 4u; r++) {
            memory[at + r] = sums[r] + biases;
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let conv = params.conv;
    let here = tile_of(params.tiles, id, grid);
    if here.empty {
        return;
    }
    let outputs_of_tile = params.tiles.phases * params.tiles.steps;
    let begin_head = here.column * params.logits.heads;
    tile = here;
    tokens = outputs_of_tile;
    first_head = begin_head;
    let rows = params.logits.heads * outputs_of_tile;
    let all = (conv.width + 3u) / 4u;
    let once = all <= params.quads;
    // Weights that are gathered are ready to use.
    var normalize = NONE;
    var dropout = Dropout();
    if GATHERED == 0u {
        normalize = conv.normalize;
        dropout = params.dropout;
    }
    let softmax = measure(me, rows, params.quads, normalize, conv.width);
    if GENERATED == 1u {
        generate(me);
        make_weights(me, Chunk(rows, 0u, all), normalize, conv.width, softmax, dropout);
    } else if once {
        load_weights(me, Chunk(rows, 0u, all), normalize, conv.width, softmax, dropout);
    }

    let first_channel = begin_head * conv.head_channels;
    let end_channel = min(first_channel + params.logits.heads * conv.head_channels, conv.channels);
    let lanes = (end_channel - first_channel) / CHANNELS;
    let items = lanes * (outputs_of_tile / STEPS);
    for (var base = 0u; base < items; base += WORKGROUP) {
        let item = base + me;
        var place: Place;
        place.sequence = here.sequence;
        place.index = here.index;
        place.channel = first_channel + item % lanes * CHANNELS;
        place.heads.x = place.channel / conv.head_channels - begin_head;
        place.heads.y = (place.channel + CHANNELS - 1u) / conv.head_channels - begin_head;
        place.output = item / lanes * STEPS;
        place.position = position_of(params.tiles, here, place.output);
        let works = item < items && place.position < here.sequence.room;

        var outputs: Outputs;
        if works {
            let value = channels_of(bias_at(place.channel), bias_at(place.channel + CHANNELS - 1u));
            for (var n = 0u; n < STEPS; n++) {
                outputs[n] = value;
            }
        }
        for (var first = 0u; first < all; first += params.quads) {
            let chunk = Chunk(rows, first, min(params.quads, all - first));
            if !once {
                load_weights(me, chunk, normalize, conv.width, softmax, dropout);
            }
            if works {
                accumulate(conv, place, first, chunk.quads, &outputs);
            }
        }
        if works {
            store_outputs(conv, place, &outputs);
        }
    }
}
