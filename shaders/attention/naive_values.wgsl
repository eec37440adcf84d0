// Naive attention, last of three dispatches: y_i = sum_j weights_ij v_j, for a tile of the queries and channels of a head.

// Weights [head, query, key], f32.
@group(0) @binding(4) var<storage, read> weights: array<u32>;
@group(0) @binding(5) var<storage, read> values: array<u32>;

fn weight_at(element: u32, key: u32) -> f32 {
    if key >= params.attention.score_stride {
        return 0.0;
    }
    return bitcast<f32>(weights[element]);
}

fn row_quad(quad: u32) -> vec4<u32> {
    let positions = vec4<u32>(here.tile.start + 4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    let rows = vec4<u32>(here.head * params.attention.score_rows + here.tile.sequence.first) + positions;
    let elements = rows * params.attention.score_stride + params.attention.queries_offset;
    return select(vec4<u32>(NOWHERE), elements, positions < vec4<u32>(here.tile.sequence.length));
}

// Weights of keys k and k + 1.
fn row_pair(begin: u32, k: u32) -> vec2<f32> {
    if begin == NOWHERE {
        return vec2<f32>(0.0);
    }
    return vec2<f32>(weight_at(begin + k, k), weight_at(begin + k + 1u, k + 1u));
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
    let rows = 4u * blocks.rows;
    let first_channel = work.part * (4u * blocks.columns);
    let works = me < blocks.rows * blocks.columns;
    let seen = seen_by_tile(work, rows);
    var sums: Weighted;
    for (var key = seen.x; key < seen.y; key += DEPTH) {
        workgroupBarrier();
        stage_rows(me, blocks, key);
        stage_values(me, columns_begin(blocks), column_stride(blocks), blocks.columns, key, first_channel);
        workgroupBarrier();
        if works {
            let values_at = columns_begin(blocks) + me % blocks.columns;
            let operands =
                Operands(me / blocks.columns, row_stride(blocks), values_at, column_stride(blocks), 0u);
            add_weighted(operands, !all_see(work, rows, key, key + DEPTH), 0u, &sums);
        }
    }
    if !works {
        return;
    }
    let channel = first_channel + me % blocks.columns * 4u;
    for (var r = 0u; r < 4u; r++) {
        let position = work.tile.start + me / blocks.columns * 4u + r;
        if position < work.tile.sequence.room {
            // A row of padding has seen no key, and its sums are zero.
            let row = work.tile.sequence.first + position;
            let column = work.head * attention.head_channels + channel;
            let element = row * attention.y_stride + attention.y_offset + column;
            store_quad(element, sums[r], channel, attention.head_channels);
        }
    }
}
