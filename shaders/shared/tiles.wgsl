// Which tokens a workgroup works on.
//
// A tile holds tokens of one sequence only. The tokens of a tile are `steps` of each of `phases` phases: with a dilation
// r, the taps of an output read tokens r apart, so outputs r apart share their tokens, and those between them share none.
// A block is what `steps` steps of all r phases cover, `span` = steps r consecutive tokens; the tiles of a block divide
// its phases among them.
//
// Blocks are numbered so that the sequence of a block is found without a table: in a rectangular batch each sequence has
// `blocks`; in a packed batch sequence i begins at block first_i / span + i, which leaves room for all its blocks, since
// ceil(a) <= floor(a + b) - floor(b) + 1. A block that is left over holds no tokens.

struct Tiles {
    // Rows of each sequence of a rectangular batch; 0 for a packed one.
    time: u32,
    sequences: u32,
    // Blocks of each sequence of a rectangular batch.
    blocks: u32,
    // Tokens of a block.
    span: u32,
    // Tiles of a block.
    tiles: u32,
    dilation: u32,
    phases: u32,
    steps: u32,
    // Whether lengths and tokens gone by are listed; otherwise all sequences have `time` tokens.
    listed: u32,
    // Workgroups that divide the columns of a tile among them.
    columns: u32,
    // Workgroups there are; the grid may hold a few more.
    groups: u32,
    unused: u32,
}

struct Sequence {
    // Row of its first token.
    first: u32,
    // Tokens.
    length: u32,
    // Rows, padding included.
    room: u32,
    // Tokens of the history that are there.
    past: u32,
}

// first, length, room, past of each sequence.
@group(0) @binding(2) var<storage, read> sequences: array<vec4<u32>>;

struct Tile {
    sequence: Sequence,
    // Number of the sequence.
    index: u32,
    // Position in the sequence of the block's first token.
    start: u32,
    // Its first phase.
    phase: u32,
    // Which part of the columns.
    column: u32,
    // Whether there is anything to do.
    empty: bool,
}

fn sequence_at(tiles: Tiles, index: u32) -> Sequence {
    if tiles.listed == 0u {
        return Sequence(index * tiles.time, tiles.time, tiles.time, 0u);
    }
    let listed = sequences[index];
    return Sequence(listed.x, listed.y, listed.z, listed.w);
}

// The last of the packed sequences that begin at or before `block`.
fn packed_index(tiles: Tiles, block: u32) -> u32 {
    var low = 0u;
    var high = tiles.sequences;
    while high - low > 1u {
        let middle = (low + high) / 2u;
        if sequences[middle].x / tiles.span + middle <= block {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// The number of a workgroup.
fn group_of(id: vec3<u32>, grid: vec3<u32>) -> u32 {
    return id.x + grid.x * (id.y + grid.y * id.z);
}

fn tile_of(tiles: Tiles, id: vec3<u32>, grid: vec3<u32>) -> Tile {
    return tile_at(tiles, group_of(id, grid));
}

// What the workgroup with number `group` works on, where each has one tile.
fn tile_at(tiles: Tiles, group: u32) -> Tile {
    var tile: Tile;
    if group >= tiles.groups {
        tile.empty = true;
        return tile;
    }
    tile.column = group % tiles.columns;
    let rest = group / tiles.columns;
    tile.phase = rest % tiles.tiles * tiles.phases;
    let block = rest / tiles.tiles;
    if tiles.time > 0u {
        tile.index = block / tiles.blocks;
        tile.sequence = sequence_at(tiles, tile.index);
        tile.start = block % tiles.blocks * tiles.span;
    } else {
        tile.index = packed_index(tiles, block);
        tile.sequence = sequence_at(tiles, tile.index);
        tile.start = (block - tile.sequence.first / tiles.span - tile.index) * tiles.span;
    }
    tile.empty = tile.start + tile.phase >= tile.sequence.room;
    return tile;
}

// Position in the sequence of the tile's token `output`: phase by phase, step by step. It may lie past the sequence, or,
// in the last tile of a block, in a phase that there is not: then it is past every sequence.
fn position_of(tiles: Tiles, tile: Tile, output: u32) -> u32 {
    let phase = tile.phase + output / tiles.steps;
    if phase >= tiles.dilation {
        return 0x7fffffffu;
    }
    return tile.start + phase + output % tiles.steps * tiles.dilation;
}
