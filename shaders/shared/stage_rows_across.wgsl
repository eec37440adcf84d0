// Rows of a product that lie side by side: `row_numbers(k, quad)` is number k of the four rows of a quad, zero past the
// rows or the depth.

fn stage_rows(me: u32, blocks: Blocks, first: u32) {
    let quads = blocks.rows * ROW_QUADS;
    for (var i = me; i < quads * DEPTH; i += WORKGROUP) {
        memory[i / quads * row_stride(blocks) + i % quads] = row_numbers(first + i / quads, i % quads);
    }
}
