// Operands of scores, for shared/product.wgsl: queries of the tile as rows, keys from `first_key` on as columns. Where they
// lie is said by attention_operands.wgsl or attention_two_operands.wgsl.

var<private> first_key: u32;

fn row_quad(quad: u32) -> vec4<u32> {
    let positions = vec4<u32>(here.tile.start + 4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    let rows = query_rows();
    let offset = rows.offset + here.head * params.attention.head_channels;
    let elements = (vec4<u32>(here.tile.sequence.first) + positions) * rows.stride + offset;
    return select(vec4<u32>(NOWHERE), elements, positions < vec4<u32>(here.tile.sequence.length));
}

fn row_pair(begin: u32, k: u32) -> vec2<f32> {
    if begin == NOWHERE || k >= params.attention.head_channels {
        return vec2<f32>(0.0);
    }
    let element = begin + k;
    if PAIRED == 1u {
        return pair_in(query_word(element >> 1u), X);
    }
    let number = element_in(query_word(word_of(element, X)), element, X);
    if k + 1u < params.attention.head_channels {
        return vec2<f32>(number, element_in(query_word(word_of(element + 1u, X)), element + 1u, X));
    }
    return vec2<f32>(number, 0.0);
}

fn column_quad(quad: u32) -> vec4<u32> {
    let positions = vec4<u32>(first_key + 4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    let rows = key_rows();
    let offset = rows.offset + here.head * params.attention.head_channels;
    let elements = (vec4<u32>(here.keys.first) + positions) * rows.stride + offset;
    return select(vec4<u32>(NOWHERE), elements, positions < vec4<u32>(here.keys.length));
}

fn column_pair(begin: u32, k: u32) -> vec2<f32> {
    if begin == NOWHERE || k >= params.attention.head_channels {
        return vec2<f32>(0.0);
    }
    let element = begin + k;
    if PAIRED == 1u {
        return pair_in(key_word(element >> 1u), X);
    }
    let number = element_in(key_word(word_of(element, X)), element, X);
    if k + 1u < params.attention.head_channels {
        return vec2<f32>(number, element_in(key_word(word_of(element + 1u, X)), element + 1u, X));
    }
    return vec2<f32>(number, 0.0);
}
