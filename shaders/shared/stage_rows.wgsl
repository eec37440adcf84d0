// Rows of a product that lie in memory: numbers k and k + 1 of a row are `row_pair(row, k)`, zero past the row or the
// depth.

fn stage_rows(me: u32, blocks: Blocks, first: u32) {
    let quads = blocks.rows * ROW_QUADS;
    for (var i = me; i < quads * (DEPTH / 2u); i += WORKGROUP) {
        let k = i % (DEPTH / 2u) * 2u;
        let quad = i / (DEPTH / 2u);
        let a = row_pair(4u * quad, first + k);
        let b = row_pair(4u * quad + 1u, first + k);
        let c = row_pair(4u * quad + 2u, first + k);
        let d = row_pair(4u * quad + 3u, first + k);
        let at = k * row_stride(blocks) + quad;
        memory[at] = vec4<f32>(a.x, b.x, c.x, d.x);
        memory[at + row_stride(blocks)] = vec4<f32>(a.y, b.y, c.y, d.y);
    }
}
