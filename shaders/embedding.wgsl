// Rows of tables that tokens stand for: y[t] = scale table[token[t]] + positions[first + p(t)] + types[type[t]].
//
// A row has `lanes` invocations, 1 to 256 by its length, each with two neighbouring channels at a time; a workgroup has as many
// rows as it has invocations for, or one of the `parts` of a long row. Rows outside of their sequence are zeros, whatever their
// ids are; rows whose id or position is past its table are NaN.

struct Params {
    tokens: u32,
    channels: u32,
    // Invocations of a row, a power of two.
    lanes: u32,
    // Channels of each part of a row, even, and how many parts there are.
    part: u32,
    parts: u32,
    // Workgroups there are; the grid may hold a few more.
    groups: u32,
    scale: f32,
    // Bits of a NaN, which no expression of WGSL gives.
    nan: u32,
    // Rows of the tables; of positions and types 0 where there are none.
    vocabulary: u32,
    positions: u32,
    types: u32,
    // The row of positions that belongs to the first token of a sequence.
    first: u32,
    // 0: tokens are in no sequence, 1: in those of `time` rows each, 2: in packed ones.
    grouping: u32,
    time: u32,
    sequences: u32,
    // Whether sequences are listed; otherwise all have `time` tokens, and none has any gone by.
    listed: u32,
    tokens_offset: u32,
    table_offset: u32,
    table_stride: u32,
    positions_offset: u32,
    positions_stride: u32,
    type_ids_offset: u32,
    types_offset: u32,
    types_stride: u32,
    y_offset: u32,
    y_stride: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// first, length, room, past of each sequence.
@group(0) @binding(2) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> tokens: array<u32>;
@group(0) @binding(4) var<storage, read> table: array<u32>;
@group(0) @binding(5) var<storage, read> positions: array<u32>;
@group(0) @binding(6) var<storage, read> type_ids: array<u32>;
@group(0) @binding(7) var<storage, read> types: array<u32>;

const IN_PACKED = 2u;

// Whether a row is a token of its sequence, where in it it stands, and how many tokens went by before.
struct Token {
    there: bool,
    at: u32,
    past: u32,
}

fn token_of(row: u32) -> Token {
    if params.grouping == 0u {
        return Token(true, 0u, 0u);
    }
    var index = 0u;
    if params.grouping == IN_PACKED {
        // The last sequence that begins at the row or before: the others that begin there are empty.
        var end = params.sequences;
        while end - index > 1u {
            let middle = index + (end - index) / 2u;
            if sequences[middle].x <= row {
                index = middle;
            } else {
                end = middle;
            }
        }
        let sequence = sequences[index];
        return Token(row - sequence.x < sequence.y, row - sequence.x, sequence.w);
    }
    index = row / params.time;
    let at = row % params.time;
    if params.listed == 0u {
        return Token(true, at, 0u);
    }
    return Token(at < sequences[index].y, at, sequences[index].w);
}

// Two numbers of each table from `element` on; the second may be any where there is none.
fn table_pair(element: u32, both: bool) -> vec2<f32> {
    let word = table[word_of(element, P)];
    if P != F32 && (element & 1u) == 0u {
        return pair_in(word, P);
    }
    let next = select(element, element + 1u, both);
    return vec2<f32>(element_in(word, element, P), element_in(table[word_of(next, P)], next, P));
}

fn positions_pair(element: u32, both: bool) -> vec2<f32> {
    let word = positions[word_of(element, P)];
    if P != F32 && (element & 1u) == 0u {
        return pair_in(word, P);
    }
    let next = select(element, element + 1u, both);
    return vec2<f32>(element_in(word, element, P), element_in(positions[word_of(next, P)], next, P));
}

fn types_pair(element: u32, both: bool) -> vec2<f32> {
    let word = types[word_of(element, P)];
    if P != F32 && (element & 1u) == 0u {
        return pair_in(word, P);
    }
    let next = select(element, element + 1u, both);
    return vec2<f32>(element_in(word, element, P), element_in(types[word_of(next, P)], next, P));
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let group = id.x + grid.x * (id.y + grid.y * id.z);
    let row = group / params.parts * (WORKGROUP / params.lanes) + me / params.lanes;
    if group >= params.groups || row >= params.tokens {
        return;
    }
    let token = token_of(row);
    var id_of_token = 0u;
    var type_id = 0u;
    var known = true;
    if token.there {
        id_of_token = tokens[params.tokens_offset + row];
        known = id_of_token < params.vocabulary;
        if params.types > 0u {
            type_id = type_ids[params.type_ids_offset + row];
            known = known && type_id < params.types;
        }
        if params.positions > 0u {
            // One after another, so that no sum can pass 32 bits.
            known = known && token.at < params.positions;
            known = known && token.past < params.positions - token.at;
            known = known && params.first < params.positions - token.at - token.past;
        }
    }
    let position = params.first + token.past + token.at;
    let start = group % params.parts * params.part;
    let end = min(start + params.part, params.channels);
    for (var column = start + me % params.lanes * 2u; column < end; column += params.lanes * 2u) {
        let both = column + 1u < end;
        var y = vec2<f32>(0.0);
        if !known {
            y = vec2<f32>(bitcast<f32>(params.nan));
        } else if token.there {
            y = table_pair(params.table_offset + id_of_token * params.table_stride + column, both);
            // What is only moved is not multiplied: a device may flush small numbers.
            if params.scale != 1.0 {
                y *= params.scale;
            }
            if params.positions > 0u {
                y += positions_pair(params.positions_offset + position * params.positions_stride + column, both);
            }
            if params.types > 0u {
                y += types_pair(params.types_offset + type_id * params.types_stride + column, both);
            }
        }
        let element = params.y_offset + row * params.y_stride + column;
        if both {
            store_pair(element, y);
        } else {
            store_one(element, y.x);
        }
    }
}
