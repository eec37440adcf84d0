// The largest numbers of rows, and where they stand: a workgroup has a row. One dispatch writes the tokens, and another (VALUES)
// the values that belong to them.
//
// The k largest are found one after another: each time the whole row is read, and the largest taken of those that rank after
// the last one. Numbers rank by their bits, so that no device has a say in what is NaN, infinite or too small to be one.

struct Params {
    // Rows; the grid may hold a few more workgroups.
    groups: u32,
    vocabulary: u32,
    k: u32,
    // Whether values are logarithms of a softmax.
    log_softmax: u32,
    x_offset: u32,
    x_stride: u32,
    tokens_offset: u32,
    y_offset: u32,
    y_stride: u32,
    unused_1: u32,
    unused_2: u32,
    unused_3: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<u32>;
// Read for values.
@group(0) @binding(3) var<storage, read> tokens: array<u32>;

const NAN = 0x7fc00000u;
const INFINITE = 0x7f800000u;
const NEGATIVE_INFINITE = 0xff800000u;

var<workgroup> ranks: array<u32, WORKGROUP>;
// One more than the index.
var<workgroup> places: array<u32, WORKGROUP>;
var<workgroup> sums: array<f32, WORKGROUP>;

// Number `index` of a row.
fn element_at(row: u32, index: u32) -> u32 {
    return params.x_offset + row * params.x_stride + index;
}

// Numbers are in the order of these: 0 of none, the largest of a NaN, and the same of both zeros.
fn rank_of(row: u32, index: u32) -> u32 {
    let element = element_at(row, index);
    var bits = x[word_of(element, X)];
    var infinite = INFINITE;
    if X != F32 {
        // In the upper half, 16-bit numbers have the order of 32-bit ones.
        bits = select(bits << 16u, bits & 0xffff0000u, (element & 1u) == 1u);
        infinite = select(INFINITE, 0x7c000000u, X == F16);
    }
    let magnitude = bits & 0x7fffffffu;
    if magnitude > infinite {
        return 0xffffffffu;
    }
    if magnitude == 0u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

// The number itself, as the bits of an f32.
fn bits_of(row: u32, index: u32) -> u32 {
    let element = element_at(row, index);
    let word = x[word_of(element, X)];
    if X == F32 {
        return word;
    }
    if X == BF16 {
        return select(word << 16u, word & 0xffff0000u, (element & 1u) == 1u);
    }
    let half = (word >> ((element & 1u) * 16u)) & 0xffffu;
    if (half & 0x7c00u) == 0x7c00u {
        // Infinite, or NaN: whether a device unpacks these is its own choice.
        return ((half & 0x8000u) << 16u) | INFINITE | ((half & 0x3ffu) << 13u);
    }
    return bitcast<u32>(element_in(word, element, X));
}

fn better(rank: u32, place: u32, other_rank: u32, other_place: u32) -> bool {
    return rank > other_rank || (rank == other_rank && place < other_place);
}

// Leaves the best of all invocations in the first place of the workgroup's memory.
fn best_of_all(me: u32, rank: u32, place: u32) {
    // What was told before has been read by all.
    workgroupBarrier();
    ranks[me] = rank;
    places[me] = place;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if me < half && better(ranks[me + half], places[me + half], ranks[me], places[me]) {
            ranks[me] = ranks[me + half];
            places[me] = places[me + half];
        }
        workgroupBarrier();
    }
}

fn write_tokens(row: u32, me: u32) {
    var last_rank = 0xffffffffu;
    var last_place = 0u;
    for (var j = 0u; j < params.k; j++) {
        var rank = 0u;
        var place = 0u;
        for (var index = me; index < params.vocabulary; index += WORKGROUP) {
            let other = rank_of(row, index);
            // Among equal ones an invocation meets that with the lower index first.
            let remains = other < last_rank || (other == last_rank && index + 1u > last_place);
            if remains && other > rank {
                rank = other;
                place = index + 1u;
            }
        }
        best_of_all(me, rank, place);
        last_rank = ranks[0];
        last_place = places[0];
        if me == 0u {
            store_bits(params.y_offset + row * params.y_stride + j, last_place - 1u);
        }
    }
}

fn write_values(row: u32, me: u32) {
    let first = params.tokens_offset + row * params.k;
    let largest_bits = bits_of(row, tokens[first]);
    // In a row without a softmax nothing is computed.
    let infinite = (largest_bits & 0x7fffffffu) >= INFINITE;
    let largest = bitcast<f32>(select(largest_bits, 0u, infinite));
    var log_sum = 0.0;
    if params.log_softmax == 1u {
        var sum = 0.0;
        for (var index = me; index < params.vocabulary; index += WORKGROUP) {
            let bits = bits_of(row, index);
            if (bits & 0x7fffffffu) < INFINITE {
                // What is farther off adds nothing.
                sum += exp(max(bitcast<f32>(bits) - largest, -200.0));
            }
        }
        sums[me] = sum;
        workgroupBarrier();
        for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
            if me < half {
                sums[me] += sums[me + half];
            }
            workgroupBarrier();
        }
        log_sum = log(sums[0]);
    }
    for (var j = me; j < params.k; j += WORKGROUP) {
        var bits = bits_of(row, tokens[first + j]);
        if params.log_softmax == 1u {
            if infinite {
                bits = NAN;
            } else if bits != NEGATIVE_INFINITE {
                bits = bitcast<u32>(bitcast<f32>(bits) - largest - log_sum);
            }
        }
        store_bits(params.y_offset + row * params.y_stride + j, bits);
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let row = id.x + grid.x * (id.y + grid.y * id.z);
    if row >= params.groups {
        return;
    }
    if VALUES == 1u {
        write_values(row, me);
    } else {
        write_tokens(row, me);
    }
}
