// Where the operands of scores lie: queries and keys.

@group(0) @binding(4) var<storage, read> queries: array<u32>;
@group(0) @binding(5) var<storage, read> all_keys: array<u32>;

// Rows of a tensor.
struct Rows {
    offset: u32,
    stride: u32,
}

fn query_rows() -> Rows {
    return Rows(params.attention.queries_offset, params.attention.queries_stride);
}

fn query_word(word: u32) -> u32 {
    return queries[word];
}

fn key_rows() -> Rows {
    return Rows(params.attention.keys_offset, params.attention.keys_stride);
}

fn key_word(word: u32) -> u32 {
    return all_keys[word];
}
