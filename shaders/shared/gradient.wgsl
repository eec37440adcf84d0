// The gradient of the output, and how sums over all tokens are divided: workgroup number `part` of `parts` sums over as many
// tiles, and what they find is summed in a fixed order.

struct Gradient {
    dy_offset: u32,
    dy_stride: u32,
    parts: u32,
    tiles_of_part: u32,
}

@group(0) @binding(6) var<storage, read> dy: array<u32>;
