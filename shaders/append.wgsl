// Writes tokens behind those that a cache holds: cache[s, past + i] = x[s, i], i < length.
//
// An invocation moves one word: a number of 32 bits, a pair of 16-bit ones, or one 16-bit number where rows do not begin
// on whole words. Numbers are not interpreted, and what is not written stays as it is.

struct Params {
    sequences: u32,
    // Rows of x, padding included.
    rows: u32,
    // Words, or single numbers, of a row.
    width: u32,
    // Rows of a sequence in the cache.
    room: u32,
    x_offset: u32,
    x_stride: u32,
    cache_offset: u32,
    cache_stride: u32,
    // Whether lengths and tokens gone by are listed; otherwise all sequences have `time` tokens, and begin with this call.
    listed: u32,
    // Rows of each sequence of a rectangular batch; 0 for a packed one.
    time: u32,
    // The largest power of two below the number of packed sequences.
    step: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// first, length, room, past of each sequence.
@group(0) @binding(2) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> x: array<u32>;

// The sequence that has a row of x.
fn sequence_of(row: u32) -> u32 {
    if params.time > 0u {
        return row / params.time;
    }
    // The last that begins at or before it.
    var index = 0u;
    for (var step = params.step; step > 0u; step /= 2u) {
        if index + step < params.sequences {
            if sequences[index + step].x <= row {
                index += step;
            }
        }
    }
    return index;
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let i = (id.x + grid.x * (id.y + grid.y * id.z)) * WORKGROUP + me;
    if i >= params.rows * params.width {
        return;
    }
    let column = i % params.width;
    let row = i / params.width;
    let index = sequence_of(row);
    var first = index * params.time;
    var length = params.time;
    var past = 0u;
    if params.listed == 1u {
        first = sequences[index].x;
        length = sequences[index].y;
        past = sequences[index].w;
    }
    let token = row - first;
    // Padding, and what the cache has no room for.
    if token >= length || past >= params.room || token >= params.room - past {
        return;
    }
    let number = params.x_offset + row * params.x_stride + column;
    let to = params.cache_offset + (index * params.room + past + token) * params.cache_stride + column;
    store_bits(to, bits_of(x[word_with(number)], number));
}
