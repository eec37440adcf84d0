// The gradient of the scores of naive attention, in the place of the weights: ds_in = scale p_in (dy_i v_n - dy_i y_i), zero
// where query i does not see key n. A workgroup makes a tile of them by the product of shared/product.wgsl; dy takes the
// place of queries there, and v that of keys.

// Invocations that share the mean of a row.
const SHARES = 4u;

fn gradient_word(word: u32) -> u32 {
    return queries[word];
}

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
    // The operands have been read: their place is free. A tile has at most WORKGROUP / SHARES rows.
    workgroupBarrier();
    memory[me].x = share_of_mean(work, me / SHARES, me % SHARES, SHARES, query_rows());
    workgroupBarrier();
    if me >= blocks.rows * blocks.columns {
        return;
    }
    let key = first_key + me % blocks.columns * 4u;
    let keys = vec4<u32>(key) + vec4<u32>(0u, 1u, 2u, 3u);
    for (var r = 0u; r < 4u; r++) {
        let row = me / blocks.columns * 4u + r;
        let position = work.tile.start + row;
        if position < work.tile.sequence.length {
            var mean = 0.0;
            for (var i = 0u; i < SHARES; i++) {
                mean += memory[row * SHARES + i].x;
            }
            let seen = seen_by(work, row);
            let begin = work.head * attention.score_rows + work.tile.sequence.first + position;
            let element = attention.y_offset + begin * attention.score_stride + key;
            var values = vec4<f32>(0.0);
            for (var i = 0u; i < 4u; i++) {
                if keys[i] >= seen.x && keys[i] < seen.y {
                    values[i] = attention.scale * bitcast<f32>(y[element + i]) * (sums[r][i] - mean);
                }
            }
            store_quad(element, values, key, attention.score_stride);
        }
    }
}
