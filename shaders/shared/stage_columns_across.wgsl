// Columns of a product that lie side by side: `column_numbers(k, quad)` is number k of the four columns of a quad, zero past
// the columns or the depth.

fn stage_columns(me: u32, blocks: Blocks, first: u32) {
    let quads = blocks.columns * COLUMN_QUADS;
    let begin = columns_begin(blocks);
    for (var i = me; i < quads * DEPTH; i += WORKGROUP) {
        memory[begin + i / quads * column_stride(blocks) + i % quads] = column_numbers(first + i / quads, i % quads);
    }
}
