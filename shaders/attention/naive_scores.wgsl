// Naive attention, first of three dispatches: the scores of a head, q_i k_j scale, written to memory as
// [head, query, key]. A workgroup makes a tile of them.
//
// Naive attention is the baseline that people write: scores are written, normalised in memory, and read again.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let work = begin(id, grid);
    if work.tile.empty {
        return;
    }
    here = work;
    let attention = params.attention;
    let blocks = Blocks(attention.row_groups, attention.column_groups);
    first_key = work.part * (4u * blocks.columns);
    var sums: Sums;
    multiply(me, blocks, attention.head_channels, &sums);
    if me >= blocks.rows * blocks.columns {
        return;
    }
    let key = first_key + me % blocks.columns * 4u;
    for (var r = 0u; r < 4u; r++) {
        let position = work.tile.start + me / blocks.columns * 4u + r;
        if position < work.tile.sequence.length {
            let row = work.head * attention.score_rows + work.tile.sequence.first + position;
            let element = attention.y_offset + row * attention.score_stride + key;
            store_quad(element, sums[r] * attention.scale, key, attention.score_stride);
        }
    }
}
