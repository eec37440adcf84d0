// Rows of a product that lie in memory. The elements where four rows begin are `row_quad(quad)`, NOWHERE for one that there
// is not; numbers k and k + 1 of a row are `row_pair(element, k)`, zero past the depth.

fn stage_rows(me: u32, blocks: Blocks, first: u32) {
    let quads = blocks.rows * ROW_QUADS;
    for (var i = me; i < quads * (DEPTH / 2u); i += WORKGROUP) {
        let k = i % (DEPTH / 2u) * 2u;
        let quad = i / (DEPTH / 2u);
        let at_rows = row_quad(quad);
        let a = row_pair(at_rows.x, first + k);
        let b = row_pair(at_rows.y, first + k);
        let c = row_pair(at_rows.z, first + k);
        let d = row_pair(at_rows.w, first + k);
        let at = k * row_stride(blocks) + quad;
        memory[at] = vec4<f32>(a.x, b.x, c.x, d.x);
        memory[at + row_stride(blocks)] = vec4<f32>(a.y, b.y, c.y, d.y);
    }
}
