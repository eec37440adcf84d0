// Operands of scores, for shared/product.wgsl: queries of the tile as rows, keys from `first_key` on as columns.

@group(0) @binding(4) var<storage, read> queries: array<u32>;
@group(0) @binding(5) var<storage, read> all_keys: array<u32>;

var<private> first_key: u32;

fn row_pair(row: u32, k: u32) -> vec2<f32> {
    let position = here.tile.start + row;
    if position >= here.tile.sequence.length || k >= params.attention.head_channels {
        return vec2<f32>(0.0);
    }
    let column = here.head * params.attention.head_channels + k;
    let at = (here.tile.sequence.first + position) * params.attention.queries_stride;
    let element = at + params.attention.queries_offset + column;
    if PAIRED == 1u {
        return pair_in(queries[element >> 1u], X);
    }
    let number = element_in(queries[word_of(element, X)], element, X);
    if k + 1u < params.attention.head_channels {
        return vec2<f32>(number, element_in(queries[word_of(element + 1u, X)], element + 1u, X));
    }
    return vec2<f32>(number, 0.0);
}

fn column_pair(column: u32, k: u32) -> vec2<f32> {
    let key = first_key + column;
    if key >= here.keys.length || k >= params.attention.head_channels {
        return vec2<f32>(0.0);
    }
    let at = (here.keys.first + key) * params.attention.keys_stride;
    let element = at + params.attention.keys_offset + here.head * params.attention.head_channels + k;
    if PAIRED == 1u {
        return pair_in(all_keys[element >> 1u], X);
    }
    let number = element_in(all_keys[word_of(element, X)], element, X);
    if k + 1u < params.attention.head_channels {
        return vec2<f32>(number, element_in(all_keys[word_of(element + 1u, X)], element + 1u, X));
    }
    return vec2<f32>(number, 0.0);
}
