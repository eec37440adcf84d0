// What the kernels of attention have in common: which keys a query sees, and where q, k, v and the scores lie.

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
    rows: u32,
    columns: u32,
    unused: u32,
}

struct Params {
    tiles: Tiles,
    attention: Attention,
}

@group(0) @binding(0) var<uniform> params: Params;
// first, length, room, past of each sequence of keys.
@group(0) @binding(3) var<storage, read> key_sequences: array<vec4<u32>>;

// What a workgroup works on: queries (the tile), their keys, a head, and which part of it.
var<private> tile: Tile;
var<private> keys: Sequence;
var<private> head: u32;
var<private> part: u32;

fn begin(id: vec3<u32>, grid: vec3<u32>) {
    tile = tile_of(params.tiles, id, grid);
    head = tile.column / params.attention.parts;
    part = tile.column % params.attention.parts;
    if params.attention.keys_listed == 1u && !tile.empty {
        let listed = key_sequences[tile.index];
        keys = Sequence(listed.x, listed.y, listed.z, listed.w);
    } else {
        let time = params.attention.keys_time;
        keys = Sequence(tile.index * time, time, time, 0u);
    }
}

// The keys that the tile's query `row` sees: from the first to before the second.
fn seen_by(row: u32) -> vec2<u32> {
    let position = tile.start + row;
    if position >= tile.sequence.length {
        return vec2<u32>(0u, 0u);
    }
    let at = i32(position) + i32(keys.room) - i32(tile.sequence.room);
    let length = i32(keys.length);
    let first = clamp(at - i32(params.attention.left), 0, length);
    let end = clamp(at + i32(params.attention.right) + 1, 0, length);
    return vec2<u32>(u32(first), u32(max(first, end)));
}

// The keys that any of the tile's `rows` queries sees. What a query sees moves forward with it, so the first and the last
// bound it.
fn seen_by_tile(rows: u32) -> vec2<u32> {
    if tile.start >= tile.sequence.length {
        return vec2<u32>(0u, 0u);
    }
    let last = min(rows, tile.sequence.length - tile.start) - 1u;
    return vec2<u32>(seen_by(0u).x, seen_by(last).y);
}

// Whether all of the tile's `rows` queries see all of these keys.
fn all_see(rows: u32, first: u32, end: u32) -> bool {
    let last = min(rows, tile.sequence.length - tile.start) - 1u;
    return seen_by(last).x <= first && seen_by(0u).y >= end;
}
