// Values on their way into a product with weights: numbers of key k at channels 4 q .. 4 q + 3 of a part, zero past the keys
// or the channels. `value_word(word)` is a word of the tensor that they are in.

fn value_at(element: u32) -> f32 {
    return element_in(value_word(word_of(element, X)), element, X);
}

// Four channels of a key, from `channel` on.
fn value_quad(key: u32, channel: u32) -> vec4<f32> {
    let d = params.attention.head_channels;
    if key >= here.keys.length || channel >= d {
        return vec4<f32>(0.0);
    }
    let row = (here.keys.first + key) * params.attention.values_stride + params.attention.values_offset;
    let element = row + here.head * d + channel;
    var quad = vec4<f32>(0.0);
    if PAIRED == 1u {
        // Pairs are whole: D is even.
        let first = pair_in(value_word(element >> 1u), X);
        quad.x = first.x;
        quad.y = first.y;
        if channel + 2u < d {
            let second = pair_in(value_word((element >> 1u) + 1u), X);
            quad.z = second.x;
            quad.w = second.y;
        }
        return quad;
    }
    quad.x = value_at(element);
    if channel + 1u < d {
        quad.y = value_at(element + 1u);
    }
    if channel + 2u < d {
        quad.z = value_at(element + 2u);
    }
    if channel + 3u < d {
        quad.w = value_at(element + 3u);
    }
    return quad;
}

// Numbers of key k and channel quad q go to memory[at + k * step + q].
fn stage_values(me: u32, at: u32, step: u32, quads: u32, first_key: u32, first_channel: u32) {
    for (var i = me; i < quads * DEPTH; i += WORKGROUP) {
        let key = first_key + i / quads;
        memory[at + i / quads * step + i % quads] = value_quad(key, first_channel + i % quads * 4u);
    }
}

// Weighted sums: four rows for each quad of channels.
alias Weighted = array<vec4<f32>, WEIGHTED>;

// Where the operands of `add_weighted` lie: weights of a row quad from `weights` on, values of VALUE_QUADS channel quads, so
// many quads apart, from `values` on; and so far from key to key.
struct Operands {
    weights: u32,
    weight_step: u32,
    values: u32,
    value_step: u32,
    apart: u32,
}

// Adds the staged values of DEPTH keys, weighted, to the sums from `slot` on. Where some queries do not see some of the keys
// (`guarded`), a weight of zero leaves its value out: a product with a NaN that a query does not see would be NaN.
fn add_weighted(operands: Operands, guarded: bool, slot: u32, sums: ptr<function, Weighted>) {
    for (var k = 0u; k < DEPTH; k++) {
        let weights = memory[operands.weights + k * operands.weight_step];
        for (var j = 0u; j < VALUE_QUADS; j++) {
            let staged = memory[operands.values + k * operands.value_step + j * operands.apart];
            let at = slot + 4u * j;
            if guarded {
                for (var r = 0u; r < 4u; r++) {
                    if weights[r] != 0.0 {
                        (*sums)[at + r] = fma(vec4<f32>(weights[r]), staged, (*sums)[at + r]);
                    }
                }
            } else {
                (*sums)[at] = fma(vec4<f32>(weights.x), staged, (*sums)[at]);
                (*sums)[at + 1u] = fma(vec4<f32>(weights.y), staged, (*sums)[at + 1u]);
                (*sums)[at + 2u] = fma(vec4<f32>(weights.z), staged, (*sums)[at + 2u]);
                (*sums)[at + 3u] = fma(vec4<f32>(weights.w), staged, (*sums)[at + 3u]);
            }
        }
    }
}
