// Weight dropout: random numbers that depend on the seed and on where a weight stands, so that a mask is made wherever it is
// needed and never stored. Kernels of problems without dropout (DROPOUT) have nothing of it.

struct Dropout {
    // Random numbers below it drop their weight; with 0 there is no dropout.
    threshold: u32,
    // Bits of what the weights that are kept are multiplied by.
    scale: u32,
    seed_low: u32,
    seed_high: u32,
}

// The high word of a product, by halves: there are no numbers of 64 bits.
fn multiply_high(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (middle >> 16u) + (other >> 16u);
}

// Philox-4x32-10 (Salmon et al. 2011).
fn philox(first_counter: vec4<u32>, first_key: vec2<u32>) -> vec4<u32> {
    var counter = first_counter;
    var key = first_key;
    for (var i = 0u; i < 10u; i++) {
        counter = vec4<u32>(
            multiply_high(counter.z, 0xcd9e8d57u) ^ counter.y ^ key.x,
            counter.z * 0xcd9e8d57u,
            multiply_high(counter.x, 0xd2511f53u) ^ counter.w ^ key.y,
            counter.x * 0xd2511f53u,
        );
        key += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return counter;
}

// What four taps of a head and token are multiplied by; all tokens of a light convolution count as token 0.
fn factors(dropout: Dropout, quad: u32, head: u32, token: u32) -> vec4<f32> {
    if DROPOUT == 0u || dropout.threshold == 0u {
        return vec4<f32>(1.0);
    }
    let random = philox(vec4<u32>(quad, head, token, 0u), vec2<u32>(dropout.seed_low, dropout.seed_high));
    let scale = bitcast<f32>(dropout.scale);
    return select(vec4<f32>(0.0), vec4<f32>(scale), random >= vec4<u32>(dropout.threshold));
}

// The same for one tap.
fn factor(dropout: Dropout, tap: u32, head: u32, token: u32) -> f32 {
    let all = factors(dropout, tap / 4u, head, token);
    return all[tap % 4u];
}
