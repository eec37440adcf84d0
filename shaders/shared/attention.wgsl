// What the kernels of attention have in common: which keys a query sees, and where q, k, v and the scores lie.
//
// The gradients of keys and values are sums over queries: their tiles are of keys, which see the queries that see them. For
// them queries and keys change places here, and left and right.

struct Attention {
    // Keys of each sequence, unless they are listed.
    keys_time: u32,
    keys_listed: u32,
    // Channels of a head, D.
    head_channels: u32,
    scale: f32,
    // How far a query sees on either side of its own position; 2^30 is to the end.
    left: u32,
    right: u32,
    // Parts that a head is divided into, of keys or of channels.
    parts: u32,
    queries_offset: u32,
    queries_stride: u32,
    keys_offset: u32,
    keys_stride: u32,
    values_offset: u32,
    values_stride: u32,
    y_offset: u32,
    y_stride: u32,
    // Keys of the longest sequence: numbers of a row of scores.
    score_stride: u32,
    // Queries of all sequences: rows of a head's scores.
    score_rows: u32,
    // Row and column groups of a tile of a product.
    row_groups: u32,
    column_groups: u32,
    // Operands of a second product.
    other_queries_offset: u32,
    other_queries_stride: u32,
    other_keys_offset: u32,
    other_keys_stride: u32,
    // Where the first query of a sequence stands among its keys: 0, so that the last stands at the last, padding included; 1,
    // after as many as tokens had gone by before the queries; 2, as many before them as had gone by before the keys.
    alignment: u32,
}

struct Params {
    tiles: Tiles,
    attention: Attention,
}

@group(0) @binding(0) var<uniform> params: Params;
// first, length, room, past of each sequence of keys.
@group(0) @binding(3) var<storage, read> key_sequences: array<vec4<u32>>;

// What a workgroup works on: queries (the tile), their keys, a head, and which part of it.
struct Work {
    tile: Tile,
    keys: Sequence,
    head: u32,
    part: u32,
}

// The same for those who fill the workgroup's memory. (WGSL does not take a private variable for uniform, so what barriers
// depend on is passed on by value.)
var<private> here: Work;

fn begin(id: vec3<u32>, grid: vec3<u32>) -> Work {
    var work: Work;
    work.tile = tile_of(params.tiles, id, grid);
    if work.tile.empty {
        return work;
    }
    work.head = work.tile.column / params.attention.parts;
    work.part = work.tile.column % params.attention.parts;
    if params.attention.keys_listed == 1u {
        let listed = key_sequences[work.tile.index];
        work.keys = Sequence(listed.x, listed.y, listed.z, listed.w);
    } else {
        let time = params.attention.keys_time;
        work.keys = Sequence(work.tile.index * time, time, time, 0u);
    }
    return work;
}

// The keys that the tile's query `row` sees: from the first to before the second.
fn seen_by(work: Work, row: u32) -> vec2<u32> {
    let position = work.tile.start + row;
    if position >= work.tile.sequence.length {
        return vec2<u32>(0u, 0u);
    }
    var at = i32(position);
    switch params.attention.alignment {
        case 0u: {
            at += i32(work.keys.room) - i32(work.tile.sequence.room);
        }
        case 1u: {
            at += i32(work.tile.sequence.past);
        }
        default: {
            at -= i32(work.keys.past);
        }
    }
    let length = i32(work.keys.length);
    let first = clamp(at - i32(params.attention.left), 0, length);
    let end = clamp(at + i32(params.attention.right) + 1, 0, length);
    return vec2<u32>(u32(first), u32(max(first, end)));
}

// The last of the tile's `rows` queries that is one of the sequence.
fn last_of(work: Work, rows: u32) -> u32 {
    return min(rows, work.tile.sequence.length - work.tile.start) - 1u;
}

// The keys that any of the tile's `rows` queries sees. What a query sees moves forward with it, so the first and the last
// bound it.
fn seen_by_tile(work: Work, rows: u32) -> vec2<u32> {
    if work.tile.start >= work.tile.sequence.length {
        return vec2<u32>(0u, 0u);
    }
    return vec2<u32>(seen_by(work, 0u).x, seen_by(work, last_of(work, rows)).y);
}

// Whether all of the tile's `rows` queries see all of these keys.
fn all_see(work: Work, rows: u32, first: u32, end: u32) -> bool {
    return seen_by(work, last_of(work, rows)).x <= first && seen_by(work, 0u).y >= end;
}
