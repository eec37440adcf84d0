// How a workgroup divides a tile of a product among its invocations, and how the operands lie in its memory: number k of
// row quad q at memory[k * (quads + 1) + q], likewise for columns behind the rows. The odd stride keeps the invocations
// that fill it off one another's banks.

// The element where a row or column begins that there is not.
const NOWHERE = 0xffffffffu;

struct Blocks {
    // Row groups, of ROW_QUADS quads.
    rows: u32,
    // Column groups, of COLUMN_QUADS quads. There are at most as many blocks as invocations.
    columns: u32,
}

fn row_stride(blocks: Blocks) -> u32 {
    return blocks.rows * ROW_QUADS + 1u;
}

fn column_stride(blocks: Blocks) -> u32 {
    return blocks.columns * COLUMN_QUADS + 1u;
}

// Where the columns begin in memory.
fn columns_begin(blocks: Blocks) -> u32 {
    return DEPTH * row_stride(blocks);
}
