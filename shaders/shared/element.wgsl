// Numbers in memory: 32-bit words that hold one f32, or two f16 or bf16, the lower half first. No feature of the device
// is needed for the 16-bit types: they are unpacked and rounded here.

const F32 = 0u;
const F16 = 1u;
const BF16 = 2u;

// The word that holds an element.
fn word_of(element: u32, kind: u32) -> u32 {
    if kind == F32 {
        return element;
    }
    return element >> 1u;
}

// Both elements of a word of 16-bit numbers; exact.
fn pair_in(word: u32, kind: u32) -> vec2<f32> {
    if kind == F16 {
        return unpack2x16float(word);
    }
    return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
}

// One element of its word; exact.
fn element_in(word: u32, element: u32, kind: u32) -> f32 {
    if kind == F32 {
        return bitcast<f32>(word);
    }
    let pair = pair_in(word, kind);
    return select(pair.x, pair.y, (element & 1u) == 1u);
}

// Rounded to 16 bits, to nearest, ties to even: WGSL leaves it to the device how its own conversions round.
fn round_to_16(value: f32, kind: u32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    let is_nan = magnitude > 0x7f800000u;
    if kind == BF16 {
        let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
        // A NaN keeps its upper bits and a quiet bit, so that it cannot round to infinity.
        return select(rounded, (bits >> 16u) | 0x40u, is_nan);
    }
    // Rebiasing the exponent by 15 - 127; a carry out of the mantissa moves into the exponent, as it should.
    let normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u;
    // Below 2^-14 the result counts steps of 2^-24: adding 1/2 leaves them, rounded, in the last bits of the mantissa.
    let subnormal = bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u;
    var half = select(normal, subnormal, magnitude < 0x38800000u);
    // From 65520 on it is infinity.
    half = select(half, 0x7c00u, magnitude >= 0x477ff000u);
    return sign | select(half, 0x7e00u, is_nan);
}

fn word_from_pair(pair: vec2<f32>, kind: u32) -> u32 {
    return round_to_16(pair.x, kind) | (round_to_16(pair.y, kind) << 16u);
}
