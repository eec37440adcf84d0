// Where the operands of two products lie that are made one after the other: q and k for the scores, dy and v for their
// gradient. `second` says which of them is made.

@group(0) @binding(4) var<storage, read> queries: array<u32>;
@group(0) @binding(5) var<storage, read> all_keys: array<u32>;
@group(0) @binding(6) var<storage, read> other_queries: array<u32>;
@group(0) @binding(7) var<storage, read> other_keys: array<u32>;

var<private> second: bool;

// Rows of a tensor.
struct Rows {
    offset: u32,
    stride: u32,
}

fn query_rows() -> Rows {
    if second {
        return Rows(params.attention.other_queries_offset, params.attention.other_queries_stride);
    }
    return Rows(params.attention.queries_offset, params.attention.queries_stride);
}

fn query_word(word: u32) -> u32 {
    if second {
        return other_queries[word];
    }
    return queries[word];
}

fn key_rows() -> Rows {
    if second {
        return Rows(params.attention.other_keys_offset, params.attention.other_keys_stride);
    }
    return Rows(params.attention.keys_offset, params.attention.keys_stride);
}

fn key_word(word: u32) -> u32 {
    if second {
        return other_keys[word];
    }
    return all_keys[word];
}
