// Values on their way into a product with weights: numbers of key k at channels 4 q .. 4 q + 3 of a part, zero past the keys or the channels.

fn value_at(key: u32, channel: u32) -> f32 {
    if key >= here.keys.length || channel >= params.attention.head_channels {
        return 0.0;
    }
    let row = here.keys.first + key;
    let column = here.head * params.attention.head_channels + channel;
    let element = row * params.attention.values_stride + params.attention.values_offset + column;
    return element_in(values[word_of(element, X)], element, X);
}

// Numbers of key k and channel quad q go to memory[at + k * step + q].
fn stage_values(me: u32, at: u32, step: u32, quads: u32, first_key: u32, first_channel: u32) {
    for (var i = me; i < quads * DEPTH; i += WORKGROUP) {
        let key = first_key + i / quads;
        let channel = first_channel + i % quads * 4u;
        memory[at + i / quads * step + i % quads] = vec4<f32>(
            value_at(key, channel),
            value_at(key, channel + 1u),
            value_at(key, channel + 2u),
            value_at(key, channel + 3u),
        );
    }
}

// Four rows of weighted sums, from `slot` on, of one quad of channels each.
alias Weighted = array<vec4<f32>, WEIGHTED>;

// Adds the staged values of DEPTH keys, weighted: weights of a row quad from `weights_at` on, values of a channel quad from
// `values_at` on. Where some queries do not see some of the keys (`guarded`), a weight of zero leaves its value out: a
// product with a NaN that a query does not see would be NaN.
fn add_weighted(
    weights_at: u32,
    weight_step: u32,
    values_at: u32,
    value_step: u32,
    guarded: bool,
    slot: u32,
    sums: ptr<function, Weighted>,
) {
    if guarded {
        for (var k = 0u; k < DEPTH; k++) {
            let weights = memory[weights_at + k * weight_step];
            let staged = memory[values_at + k * value_step];
            for (var r = 0u; r < 4u; r++) {
                if weights[r] != 0.0 {
                    (*sums)[slot + r] = fma(vec4<f32>(weights[r]), staged, (*sums)[slot + r]);
                }
            }
        }
        return;
    }
    for (var k = 0u; k < DEPTH; k++) {
        let weights = memory[weights_at + k * weight_step];
        let staged = memory[values_at + k * value_step];
        (*sums)[slot] = fma(vec4<f32>(weights.x), staged, (*sums)[slot]);
        (*sums)[slot + 1u] = fma(vec4<f32>(weights.y), staged, (*sums)[slot + 1u]);
        (*sums)[slot + 2u] = fma(vec4<f32>(weights.z), staged, (*sums)[slot + 2u]);
        (*sums)[slot + 3u] = fma(vec4<f32>(weights.w), staged, (*sums)[slot + 3u]);
    }
}
