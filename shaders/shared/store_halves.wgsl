// Outputs of 16 bits that share words with their neighbours: rows of odd length, odd offsets, gaps between rows.
//
// Every half of a word is written by one invocation only. It clears its own bits, then sets them; both are atomic, so
// neither order of two neighbours loses anything, and what belongs to nobody stays as it was.

@group(0) @binding(1) var<storage, read_write> y: array<atomic<u32>>;

fn store_bits(element: u32, bits: u32) {
    let shift = (element & 1u) * 16u;
    atomicAnd(&y[element >> 1u], ~(0xffffu << shift));
    atomicOr(&y[element >> 1u], bits << shift);
}

fn store_one(element: u32, value: f32) {
    store_bits(element, round_to_16(value, Y));
}

fn store_pair(element: u32, values: vec2<f32>) {
    if (element & 1u) == 0u {
        // Both halves of one word: no neighbour has a part in it.
        atomicStore(&y[element >> 1u], word_from_pair(values, Y));
    } else {
        store_one(element, values.x);
        store_one(element + 1u, values.y);
    }
}
