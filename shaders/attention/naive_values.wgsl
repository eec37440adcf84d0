// Naive attention, last of three dispatches: y_i = sum_j weights_ij v_j, for a tile of the queries and channels of a head.
// Or the gradient of keys and values, whose tiles are of keys, and which sum over queries (TRANSPOSED).

// Weights [head, query, key], f32.
@group(0) @binding(4) var<storage, read> weights: array<u32>;
@group(0) @binding(5) var<storage, read> values: array<u32>;

fn value_word(word: u32) -> u32 {
    return values[word];
}

// The weight `k` after `begin`: of the next key of a query, or, transposed, the next query of a key.
fn weight_at(begin: u32, k: u32) -> f32 {
    let stride = params.attention.score_stride;
    if TRANSPOSED == 1u {
        if k >= here.keys.length {
            return 0.0;
        }
        return bitcast<f32>(weights[begin + k * stride]);
    }
    if k >= stride {
        return 0.0;
    }
    return bitcast<f32>(weights[begin + k]);
}

fn row_quad(quad: u32) -> vec4<u32> {
    let positions = vec4<u32>(here.tile.start + 4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    let head = here.head * params.attention.score_rows;
    let stride = params.attention.score_stride;
    var elements = (vec4<u32>(head + here.tile.sequence.first) + positions) * stride;
    if TRANSPOSED == 1u {
        elements = vec4<u32>((head + here.keys.first) * stride) + positions;
    }
    return select(vec4<u32>(NOWHERE), elements, positions < vec4<u32>(here.tile.sequence.length));
}

fn row_pair(begin: u32, k: u32) -> vec2<f32> {
    if begin == NOWHERE {
        return vec2<f32>(0.0);
    }
    return vec2<f32>(weight_at(begin, k), weight_at(begin, k + 1u));
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
            let row = work.tile.sequence.first + position;
            let column = work.head * attention.head_channels + channel;
            let element = row * attention.y_stride + attention.y_offset + column;
            // A row of padding has weights of zero, but what it weighed may be infinite.
            let is_token = position < work.tile.sequence.length;
            store_quad(element, select(vec4<f32>(0.0), sums[r], is_token), channel, attention.head_channels);
        }
    }
}
