// Columns of a product, which are rows of a weight. The elements where four of them begin are `column_quad(quad)`, NOWHERE
// for one that there is not; numbers k and k + 1 of a column are `column_pair(element, k)`, zero past the depth.

fn stage_columns(me: u32, blocks: Blocks, first: u32) {
    let quads = blocks.columns * COLUMN_QUADS;
    for (var i = me; i < quads * (DEPTH / 2u); i += WORKGROUP) {
        let k = i % (DEPTH / 2u) * 2u;
        let quad = i / (DEPTH / 2u);
        let at_columns = column_quad(quad);
        let a = column_pair(at_columns.x, first + k);
        let b = column_pair(at_columns.y, first + k);
        let c = column_pair(at_columns.z, first + k);
        let d = column_pair(at_columns.w, first + k);
        let at = columns_begin(blocks) + k * column_stride(blocks) + quad;
        memory[at] = vec4<f32>(a.x, b.x, c.x, d.x);
        memory[at + column_stride(blocks)] = vec4<f32>(a.y, b.y, c.y, d.y);
    }
}
