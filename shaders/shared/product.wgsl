// A tile of a matrix product: sums over `depth` of rows times columns, ROW_QUADS x COLUMN_QUADS squares of 4 x 4 for
// each invocation, in registers. Both operands go through the workgroup's memory, DEPTH deep at a time, so that each
// number is loaded once a tile; a square then costs two quads of memory for sixteen multiply-adds.
//
// The kernel fills the memory with `stage_rows` and `stage_columns`: number k of row quad q at memory[k * (quads + 1) + q],
// likewise for columns behind the rows. The odd stride keeps the invocations that fill it off one another's banks.

alias Sums = array<vec4<f32>, 4u * ROW_QUADS * COLUMN_QUADS>;

// Adds the products of `depth` numbers of rows and columns in memory: from where they begin, and so far from one to the
// next.
fn add_products(
    rows_at: u32, row_step: u32, columns_at: u32, column_step: u32, depth: u32, sums: ptr<function, Sums>,
) {
    var row_at = rows_at;
    var column_at = columns_at;
    for (var k = 0u; k < depth; k++) {
        for (var j = 0u; j < COLUMN_QUADS; j++) {
            let columns = memory[column_at + j];
            for (var i = 0u; i < ROW_QUADS; i++) {
                let rows = memory[row_at + i];
                let at = 4u * i * COLUMN_QUADS + j;
                (*sums)[at] = fma(vec4<f32>(rows.x), columns, (*sums)[at]);
                (*sums)[at + COLUMN_QUADS] = fma(vec4<f32>(rows.y), columns, (*sums)[at + COLUMN_QUADS]);
                (*sums)[at + 2u * COLUMN_QUADS] = fma(vec4<f32>(rows.z), columns, (*sums)[at + 2u * COLUMN_QUADS]);
                (*sums)[at + 3u * COLUMN_QUADS] = fma(vec4<f32>(rows.w), columns, (*sums)[at + 3u * COLUMN_QUADS]);
            }
        }
        row_at += row_step;
        column_at += column_step;
    }
}

// sums[(4 i + r) * COLUMN_QUADS + j] is row r of row quad i times column quad j of the block that `me` has: row group
// me / blocks.columns, column group me % blocks.columns.
fn multiply(me: u32, blocks: Blocks, depth: u32, sums: ptr<function, Sums>) {
    let row_quad = me / blocks.columns * ROW_QUADS;
    let column_quad = me % blocks.columns * COLUMN_QUADS;
    let works = me < blocks.rows * blocks.columns;
    for (var first = 0u; first < depth; first += DEPTH) {
        workgroupBarrier();
        stage_rows(me, blocks, first);
        stage_columns(me, blocks, first);
        workgroupBarrier();
        if works {
            let rows_at = row_quad;
            let columns_at = columns_begin(blocks) + column_quad;
            add_products(rows_at, row_stride(blocks), columns_at, column_stride(blocks), DEPTH, sums);
        }
    }
}
