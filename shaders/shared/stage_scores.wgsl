// Operands of scores, for shared/product.wgsl: queries of the tile as rows, keys from `first_key` on as columns.

@group(0) @binding(4) var<storage, read> queries: array<u32>;
@group(0) @binding(5) var<storage, read> all_keys: array<u32>;

var<private> first_key: u32;

fn row_quad(quad: u32) -> vec4<u32> {
    let positions = vec4<u32>(here.tile.start + 4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    let offset = params.attention.queries_offset + here.head * params.attention.head_channels;
    let elements = (vec4<u32>(here.tile.sequence.first) + positions) * params.attention.queries_stride + offset;
    return select(vec4<u32>(NOWHERE), elements, positions < vec4<u32>(here.tile.sequence.length));
}

fn row_pair(begin: u32, k: u32) -> vec2<f32> {
    if begin == NOWHERE || k >= params.attention.head_channels {
        return vec2<f32>(0.0);
    }
    let element = begin + k;
    if PAIRED == 1u {
        return pair_in(queries[element >> 1u], X);
    }
    let number = element_in(queries[word_of(element, X)], element, X);
    if k + 1u < params.attention.head_channels {
        return vec2<f32>(number, element_in(queries[word_of(element + 1u, X)], element + 1u, X));
    }
    return vec2<f32>(number, 0.0);
}

fn column_quad(quad: u32) -> vec4<u32> {
    let positions = vec4<u32>(first_key + 4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    let offset = params.attention.keys_offset + here.head * params.attention.head_channels;
    let elements = (vec4<u32>(here.keys.first) + positions) * params.attention.keys_stride + offset;
    return select(vec4<u32>(NOWHERE), elements, positions < vec4<u32>(here.keys.length));
}

fn column_pair(begin: u32, k: u32) -> vec2<f32> {
    if begin == NOWHERE || k >= params.attention.head_channels {
        return vec2<f32>(0.0);
    }
    let element = begin + k;
    if PAIRED == 1u {
        return pair_in(all_keys[element >> 1u], X);
    }
    let number = element_in(all_keys[word_of(element, X)], element, X);
    if k + 1u < params.attention.head_channels {
        return vec2<f32>(number, element_in(all_keys[word_of(element + 1u, X)], element + 1u, X));
    }
    return vec2<f32>(number, 0.0);
}
