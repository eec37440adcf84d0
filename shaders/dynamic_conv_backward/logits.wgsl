// The gradient of a dynamic convolution's logits: g, or w (g - sum_i w g) with a softmax, where
// g[t, h, j] = m[t, h, j] sum_c dy[t, c] x[t + j r - P, c] over the channels c of head h, and m are the factors of dropout.
//
// It must read x, dy and the logits once, write as many numbers as there are logits, and multiply K numbers of each token
// and channel. The products of a head are a band of dy x^T: an invocation has a square of it in registers, STEPS tokens and
// four taps, to which a channel adds from five quads in the workgroup's memory. What a row of the band has to know of all
// its taps is one number, the dot product of its weights with g, which the invocations of the row tell one another; where
// there are more taps than invocations, the products are made twice.
//
// Or the rows are summed over the tokens (SUMMED), in parts: the gradient of logits that all tokens have in common, those of
// a light convolution with a softmax over the taps in range. Only tokens at the edges count then; the others have one
// softmax, which light_conv_backward/reduce.wgsl undoes. What becomes of the rows is in rows.wgsl and sums.wgsl.

struct Params {
    tiles: Tiles,
    conv: Convolution,
    dropout: Dropout,
    logits: Logits,
    gradient: Gradient,
    // Quads of taps of a pass.
    quads: u32,
    // Groups of STEPS tokens of a tile.
    row_groups: u32,
    // Channels of a stage.
    depth: u32,
    // Columns of heads, where a workgroup has many tiles.
    head_columns: u32,
    part_offset: u32,
    statistics_offset: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// The statistics of the softmax.
@group(0) @binding(7) var<storage, read> statistics: array<f32>;

// Taps of STEPS tokens.
alias Band = array<vec4<f32>, STEPS>;

// Where an invocation works in the tile.
struct Square {
    head: u32,
    // Its tokens, in groups of STEPS.
    group: u32,
    quad: u32,
    works: bool,
}

// Four numbers of a channel, of tokens a dilation apart from `position` on; before the sequence is past it, without a sign.
fn dy_at(position: u32, channel: u32) -> vec4<f32> {
    var values = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        let at = position + i * params.conv.dilation;
        if at < tile.sequence.length {
            let row = tile.sequence.first + at;
            let element = row * params.gradient.dy_stride + params.gradient.dy_offset + channel;
            values[i] = element_in(dy[word_of(element, X)], element, X);
        }
    }
    return values;
}

fn x_at(position: u32, channel: u32) -> vec4<f32> {
    var values = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        let at = position + i * params.conv.dilation;
        if at < tile.sequence.length {
            let row = tile.sequence.first + at;
            let element = row * params.conv.x_stride + params.conv.x_offset + channel;
            values[i] = element_in(x[word_of(element, X)], element, X);
        }
    }
    return values;
}

// Quads of tokens of a channel in a stage: those of dy, then of x, phase by phase.
fn dy_quads() -> u32 {
    return tokens / 4u;
}

fn x_quads_of_phase() -> u32 {
    return params.tiles.steps / 4u + params.quads;
}

// From one channel to the next; odd, so that the invocations that fill it keep off one another's banks.
fn channel_stride() -> u32 {
    return (dy_quads() + params.tiles.phases * x_quads_of_phase()) | 1u;
}

// Fills memory with channels `first` to `first + depth` of all heads of the tile, for the taps from quad `first_quad` on.
fn stage(me: u32, first: u32, first_quad: u32) {
    let all = dy_quads() + params.tiles.phases * x_quads_of_phase();
    for (var i = me; i < params.logits.heads * params.depth * all; i += WORKGROUP) {
        let k = i % params.depth;
        let quad = i / params.depth % all;
        let head = i / params.depth / all;
        var values = vec4<f32>(0.0);
        if first + k < params.conv.head_channels && first_head + head < params.logits.all_heads {
            let channel = (first_head + head) * params.conv.head_channels + first + k;
            if quad < dy_quads() {
                values = dy_at(position_of(params.tiles, tile, 4u * quad), channel);
            } else {
                let phase = (quad - dy_quads()) / x_quads_of_phase();
                let step = (quad - dy_quads()) % x_quads_of_phase() * 4u + 4u * first_quad;
                let position = position_of(params.tiles, tile, phase * params.tiles.steps);
                if position < tile.sequence.length {
                    values = x_at(position + step * params.conv.dilation - params.conv.left, channel);
                }
            }
        }
        memory[(head * params.depth + k) * channel_stride() + quad] = values;
    }
}

// The band of the taps from quad `first_quad` on; what is out of range is anything.
fn multiply_band(me: u32, square: Square, first_quad: u32, band: ptr<function, Band>) {
    for (var n = 0u; n < STEPS; n++) {
        (*band)[n] = vec4<f32>(0.0);
    }
    let output = square.group * STEPS;
    let phase = output / params.tiles.steps;
    let dy_begin = 2u * square.group;
    let x_begin = dy_quads() + phase * x_quads_of_phase() + output % params.tiles.steps / 4u + square.quad;
    for (var first = 0u; first < params.conv.head_channels; first += params.depth) {
        workgroupBarrier();
        stage(me, first, first_quad);
        workgroupBarrier();
        if square.works {
            var at = square.head * params.depth * channel_stride();
            for (var k = 0u; k < params.depth; k++) {
                let g0 = memory[at + dy_begin];
                let g1 = memory[at + dy_begin + 1u];
                let a = memory[at + x_begin];
                let b = memory[at + x_begin + 1u];
                let c = memory[at + x_begin + 2u];
                (*band)[0] = fma(vec4<f32>(g0.x), a, (*band)[0]);
                (*band)[1] = fma(vec4<f32>(g0.y), vec4<f32>(a.yzw, b.x), (*band)[1]);
                (*band)[2] = fma(vec4<f32>(g0.z), vec4<f32>(a.zw, b.xy), (*band)[2]);
                (*band)[3] = fma(vec4<f32>(g0.w), vec4<f32>(a.w, b.xyz), (*band)[3]);
                (*band)[4] = fma(vec4<f32>(g1.x), b, (*band)[4]);
                (*band)[5] = fma(vec4<f32>(g1.y), vec4<f32>(b.yzw, c.x), (*band)[5]);
                (*band)[6] = fma(vec4<f32>(g1.z), vec4<f32>(b.zw, c.xy), (*band)[6]);
                (*band)[7] = fma(vec4<f32>(g1.w), vec4<f32>(b.w, c.xyz), (*band)[7]);
                at += channel_stride();
            }
        }
    }
}

// Which of four taps are in a range.
fn taps_in(quad: u32, range: vec2<u32>) -> vec4<bool> {
    let taps = vec4<u32>(0u, 1u, 2u, 3u) + 4u * quad;
    return (taps >= vec4<u32>(range.x)) & (taps < vec4<u32>(range.y));
}

// Leaves g in the place of the products: what is in range, and not dropped. At the edges only, where the rows are summed.
fn mask_band(square: Square, quad: u32, band: ptr<function, Band>) {
    let head = first_head + square.head;
    for (var n = 0u; n < STEPS; n++) {
        let output = square.group * STEPS + n;
        let row = row_of(output).x;
        var range = range_of(output);
        if SUMMED == 1u && range.x == 0u && range.y == params.conv.width {
            range.y = 0u;
        }
        let kept = factors(params.dropout, quad, head, dropout_token(row));
        let used = taps_in(quad, range) & (kept > vec4<f32>(0.0));
        (*band)[n] = select(vec4<f32>(0.0), (*band)[n] * kept, used);
    }
}

// The weights of four taps of a token of the tile.
fn weights_at(square: Square, quad: u32, n: u32) -> vec4<f32> {
    let output = square.group * STEPS + n;
    let row = row_of(output);
    if row.y == 0u {
        return vec4<f32>(0.0);
    }
    let head = first_head + square.head;
    var range = vec2<u32>(0u, params.conv.width);
    if params.conv.normalize == IN_RANGE {
        range = range_of(output);
    }
    let at = params.statistics_offset + 2u * (row.x * params.logits.all_heads + head);
    let weights = exp(quad_at(row.x, head, quad) - statistics[at]) / statistics[at + 1u];
    return select(vec4<f32>(0.0), weights, taps_in(quad, range));
}

// Adds the dot products of weights and g of four taps, token by token.
fn add_dots(square: Square, quad: u32, band: ptr<function, Band>, dots: ptr<function, array<f32, STEPS>>) {
    for (var n = 0u; n < STEPS; n++) {
        (*dots)[n] += dot(weights_at(square, quad, n), (*band)[n]);
    }
}

// Sums the dot products over the invocations of a row. All invocations of the workgroup must come here.
fn tell_dots(me: u32, square: Square, dots: ptr<function, array<f32, STEPS>>) {
    workgroupBarrier();
    memory[2u * me] = vec4<f32>((*dots)[0], (*dots)[1], (*dots)[2], (*dots)[3]);
    memory[2u * me + 1u] = vec4<f32>((*dots)[4], (*dots)[5], (*dots)[6], (*dots)[7]);
    workgroupBarrier();
    if square.works {
        var first = vec4<f32>(0.0);
        var second = vec4<f32>(0.0);
        for (var i = me - square.quad; i < me - square.quad + params.quads; i++) {
            first += memory[2u * i];
            second += memory[2u * i + 1u];
        }
        for (var n = 0u; n < 4u; n++) {
            (*dots)[n] = first[n];
            (*dots)[n + 4u] = second[n];
        }
    }
}

// Puts the gradient of the logits in the place of g.
fn undo_softmax(square: Square, quad: u32, dots: ptr<function, array<f32, STEPS>>, band: ptr<function, Band>) {
    for (var n = 0u; n < STEPS; n++) {
        let undone = weights_at(square, quad, n) * ((*band)[n] - vec4<f32>((*dots)[n]));
        // A weight of zero, of a tap that is not in range, would make NaN of what is infinite.
        var range = vec2<u32>(0u, params.conv.width);
        if params.conv.normalize == IN_RANGE {
            range = range_of(square.group * STEPS + n);
        }
        (*band)[n] = select(vec4<f32>(0.0), undone, taps_in(quad, range));
    }
}

// Whether some token of the tile has taps out of range.
fn has_edge(here: Tile) -> bool {
    let conv = params.conv;
    let first = here.start + here.phase;
    let last = here.start + params.tiles.span - 1u;
    let right = conv.reach - conv.left;
    return first < conv.left || last + right >= here.sequence.length;
}

fn work(me: u32, part: u32, square: Square) {
    let conv = params.conv;
    let all = (conv.width + 3u) / 4u;
    var band: Band;
    var dots: array<f32, STEPS>;
    let once = all <= params.quads;
    if conv.normalize != NONE && !once {
        for (var first = 0u; first < all; first += params.quads) {
            let quad = first + square.quad;
            multiply_band(me, square, first, &band);
            if square.works && quad < all {
                mask_band(square, quad, &band);
                add_dots(square, quad, &band, &dots);
            }
        }
        tell_dots(me, square, &dots);
    }
    for (var first = 0u; first < all; first += params.quads) {
        let quad = first + square.quad;
        multiply_band(me, square, first, &band);
        let has_taps = square.works && quad < all;
        if has_taps {
            mask_band(square, quad, &band);
        }
        if conv.normalize != NONE {
            if once {
                if has_taps {
                    add_dots(square, quad, &band, &dots);
                }
                tell_dots(me, square, &dots);
            }
            if has_taps {
                undo_softmax(square, quad, &dots, &band);
            }
        }
        finish(me, square, quad, has_taps, part, &band);
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let conv = params.conv;
    tokens = params.tiles.phases * params.tiles.steps;
    var square: Square;
    square.quad = me % params.quads;
    square.group = me / params.quads % params.row_groups;
    square.head = me / params.quads / params.row_groups;
    let group = group_of(id, grid);
    if SUMMED == 0u {
        let here = tile_at(params.tiles, group);
        if !here.empty {
            tile = here;
            first_head = here.column * params.logits.heads;
            square.works =
                square.head < params.logits.heads && first_head + square.head < params.logits.all_heads;
            work(me, 0u, square);
        }
        return;
    }
    let part = group / params.head_columns;
    if part >= params.gradient.parts {
        return;
    }
    first_head = group % params.head_columns * params.logits.heads;
    square.works = square.head < params.logits.heads && first_head + square.head < params.logits.all_heads;
    begin(square, part);
    for (var i = 0u; i < params.gradient.tiles_of_part; i++) {
        let here = tile_at(params.tiles, part * params.gradient.tiles_of_part + i);
        if !here.empty && has_edge(here) {
            tile = here;
            work(me, part, square);
        }
    }
}
