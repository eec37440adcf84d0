// Outputs that fill whole words: f32, or pairs of 16-bit numbers that begin at an even element.

@group(0) @binding(1) var<storage, read_write> y: array<u32>;

// Only for f32: a single 16-bit number would take its neighbour with it (see store_halves).
fn store_one(element: u32, value: f32) {
    y[element] = bitcast<u32>(value);
}

fn store_pair(element: u32, values: vec2<f32>) {
    if Y == F32 {
        y[element] = bitcast<u32>(values.x);
        y[element + 1u] = bitcast<u32>(values.y);
    } else {
        y[element >> 1u] = word_from_pair(values, Y);
    }
}

// A word as it is.
fn store_bits(word: u32, bits: u32) {
    y[word] = bits;
}
