// Dynamic convolution: y[t, c] = bias[c] + sum_j normalize(logits)[t, h(c), j] x[t + j r - P, c], with logits
// W q[t] + w_bias made here (GENERATED), or given.
//
// A workgroup makes the outputs of a tile of tokens, for some heads. The taps of each of its tokens and heads are a row in
// its memory: a tile of the generating product leaves its logits there, or they are loaded from those given, chunk by
// chunk where they are more than it holds. They are normalised in place, and never go back to the device's memory.
//
// With a logit stride of 0 every token has the same logits: light convolution with a softmax over the taps in range.

struct Params {
    tiles: Tiles,
    conv: Convolution,
    // Heads of a tile.
    heads: u32,
    // Quads of a chunk: all of them where they are generated.
    quads: u32,
    // Row and column groups of the generating product.
    row_groups: u32,
    column_groups: u32,
    // Of the logits: from one token to the next; or of W.
    source_offset: u32,
    logit_stride: u32,
    query_channels: u32,
    query_offset: u32,
    query_stride: u32,
    weight_bias_offset: u32,
    has_weight_bias: u32,
    all_heads: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// Logits, or the generator's weight W.
@group(0) @binding(5) var<storage, read> source: array<u32>;
@group(0) @binding(6) var<storage, read> bias: array<u32>;
@group(0) @binding(7) var<storage, read> query: array<u32>;
@group(0) @binding(8) var<storage, read> weight_bias: array<u32>;

// What the workgroup works on, for those who fill its memory. (WGSL does not take a private variable for uniform, so what
// barriers depend on is passed on by value.)
var<private> tile: Tile;
var<private> first_head: u32;
// Tokens of a tile.
var<private> tokens: u32;

fn bias_at(channel: u32) -> f32 {
    if params.conv.has_bias == 0u {
        return 0.0;
    }
    let element = params.conv.bias_offset + channel;
    return element_in(bias[word_of(element, P)], element, P);
}

// The row of the flat tensor that holds a token of the tile, and whether it is one of the sequence.
fn row_of(output: u32) -> vec2<u32> {
    let position = position_of(params.tiles, tile, output);
    return vec2<u32>(tile.sequence.first + position, u32(position < tile.sequence.length));
}

fn range_of(row: u32) -> vec2<u32> {
    let position = position_of(params.tiles, tile, row % tokens);
    if position >= tile.sequence.length {
        return vec2<u32>(0u, 0u);
    }
    return taps_in_range(params.conv, tile.sequence, position);
}

fn taps_of(place: Place, quad: u32, step: u32) -> Taps {
    let at = quad * params.heads * tokens + place.output + step;
    let first = memory[at + place.heads.x * tokens];
    if SPLIT == 1u {
        return Taps(first, memory[at + place.heads.y * tokens]);
    }
    return Taps(first, first);
}

// A given logit; zero past the window.
fn logit_at(row: u32, head: u32, tap: u32) -> f32 {
    if tap >= params.conv.width {
        return 0.0;
    }
    let element = params.source_offset + row * params.logit_stride + head * params.conv.width + tap;
    return element_in(source[word_of(element, S)], element, S);
}

fn fill(me: u32, chunk: Chunk) {
    if GENERATED == 1u {
        return;
    }
    for (var i = me; i < chunk.rows * chunk.quads; i += WORKGROUP) {
        let quad = i % chunk.quads;
        let head = i / chunk.quads % params.heads;
        let output = i / chunk.quads / params.heads;
        let row = row_of(output);
        var logits = vec4<f32>(0.0);
        if row.y == 1u && first_head + head < params.all_heads {
            let tap = 4u * (chunk.first_quad + quad);
            let h = first_head + head;
            logits = vec4<f32>(
                logit_at(row.x, h, tap),
                logit_at(row.x, h, tap + 1u),
                logit_at(row.x, h, tap + 2u),
                logit_at(row.x, h, tap + 3u),
            );
        }
        memory[quad * chunk.rows + head * tokens + output] = logits;
    }
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
    let elements = rows * params.query_channels + params.source_offset;
    let there = taps < vec4<u32>(select(0u, params.conv.width, head < params.all_heads));
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
    if params.has_weight_bias == 0u || head >= params.all_heads || tap >= params.conv.width {
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
    if me < blocks.rows * blocks.columns && column_quad < params.heads * params.quads {
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
        let at = (quad * params.heads + head) * tokens + 4u * (me / blocks.columns);
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
    let begin_head = here.column * params.heads;
    tile = here;
    tokens = outputs_of_tile;
    first_head = begin_head;
    let rows = params.heads * outputs_of_tile;
    let all = (conv.width + 3u) / 4u;
    let once = all <= params.quads;
    let softmax = measure(me, rows, params.quads, conv.normalize, conv.width);
    if GENERATED == 1u {
        generate(me);
        normalize_chunk(me, Chunk(rows, 0u, all), conv.normalize, conv.width, softmax);
        workgroupBarrier();
    } else if once {
        load_weights(me, Chunk(rows, 0u, all), conv.normalize, conv.width, softmax);
    }

    let first_channel = begin_head * conv.head_channels;
    let end_channel = min(first_channel + params.heads * conv.head_channels, conv.channels);
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
                load_weights(me, chunk, conv.normalize, conv.width, softmax);
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
