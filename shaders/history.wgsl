// Moves a decoder's memory on: next[s, i] = (history[s] followed by the tokens of sequence s)[length + i].
//
// An invocation moves one word: a number of 32 bits, a pair of 16-bit ones, or one 16-bit number where rows do not begin
// on whole words. Numbers are not interpreted.

struct Params {
    sequences: u32,
    // Rows of a sequence in the history, (K - 1) r.
    reach: u32,
    // Words, or single numbers, of a row.
    width: u32,
    x_offset: u32,
    x_stride: u32,
    history_offset: u32,
    next_offset: u32,
    // Whether lengths are listed; otherwise all sequences have `time` tokens.
    listed: u32,
    time: u32,
    unused_1: u32,
    unused_2: u32,
    unused_3: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// first, length, room, past of each sequence.
@group(0) @binding(2) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> x: array<u32>;
@group(0) @binding(4) var<storage, read> history: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let i = (id.x + grid.x * (id.y + grid.y * id.z)) * WORKGROUP + me;
    if i >= params.sequences * params.reach * params.width {
        return;
    }
    let column = i % params.width;
    let row = i / params.width;
    let index = row / params.reach;
    var first = index * params.time;
    var length = params.time;
    if params.listed == 1u {
        first = sequences[index].x;
        length = sequences[index].y;
    }
    // Row `at` of the history followed by the tokens.
    let at = row % params.reach + length;
    var bits = 0u;
    if at < params.reach {
        let number = params.history_offset + (index * params.reach + at) * params.width + column;
        bits = bits_of(history[word_with(number)], number);
    } else {
        let number = params.x_offset + (first + at - params.reach) * params.x_stride + column;
        bits = bits_of(x[word_with(number)], number);
    }
    store_bits(params.next_offset + i, bits);
}
