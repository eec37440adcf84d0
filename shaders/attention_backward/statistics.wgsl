// The backward pass of attention begins with what all its kernels want of a query and head: the largest of its scores and the
// sum of their exponentials, which make weights of scores again, and the mean of the gradients of its weights, which is
// dy y (Dao et al. 2022, appendix B). In memory they are [head, 3, query].
//
// A workgroup has QUERIES queries of a head, and goes over their keys as fused attention does, by the product of
// shared/product.wgsl. It must read q, k, y and dy, k once for each tile.

const LOWEST = -3.4028234e38;
const QUERIES = 64u;
const KEYS = 32u;
const ROW_GROUPS = QUERIES / 4u;
const KEY_GROUPS = KEYS / 4u;
// Invocations that share a row.
const SHARES = WORKGROUP / QUERIES;

@group(0) @binding(7) var<storage, read> gradients: array<u32>;

fn gradient_word(word: u32) -> u32 {
    return gradients[word];
}

fn store_statistic(work: Work, which: u32, position: u32, value: f32) {
    let row = (work.head * 3u + which) * params.attention.score_rows + work.tile.sequence.first + position;
    store_one(params.attention.y_offset + row, value);
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
    let row_group = me / KEY_GROUPS;
    let column_group = me % KEY_GROUPS;
    let seen = seen_by_tile(work, QUERIES);
    var ranges: array<vec2<u32>, 4>;
    for (var r = 0u; r < 4u; r++) {
        ranges[r] = seen_by(work, row_group * 4u + r);
    }
    let begins = vec4<u32>(ranges[0].x, ranges[1].x, ranges[2].x, ranges[3].x);
    let ends = vec4<u32>(ranges[0].y, ranges[1].y, ranges[2].y, ranges[3].y);
    // Of four queries, and of every KEY_GROUPS-th quad of keys.
    var largest = vec4<f32>(LOWEST);
    var total = vec4<f32>(0.0);
    for (var first = seen.x; first < seen.y; first += KEYS) {
        first_key = first;
        var scores: Sums;
        multiply(me, Blocks(ROW_GROUPS, KEY_GROUPS), attention.head_channels, &scores);
        var columns: array<vec4<f32>, 4>;
        var now = largest;
        for (var c = 0u; c < 4u; c++) {
            let key = vec4<u32>(first + column_group * 4u + c);
            let column = vec4<f32>(scores[0][c], scores[1][c], scores[2][c], scores[3][c]) * attention.scale;
            columns[c] = select(vec4<f32>(LOWEST), column, (key >= begins) & (key < ends));
            now = max(now, columns[c]);
        }
        total *= exp(largest - now);
        for (var c = 0u; c < 4u; c++) {
            total += select(exp(columns[c] - now), vec4<f32>(0.0), columns[c] <= vec4<f32>(LOWEST));
        }
        largest = now;
    }
    // The operands of the scores have been read: their place is free.
    workgroupBarrier();
    memory[me] = largest;
    memory[WORKGROUP + me] = total;
    if MEANS == 1u {
        let rows = Rows(attention.other_keys_offset, attention.other_keys_stride);
        memory[2u * WORKGROUP + me].x = share_of_mean(work, me / SHARES, me % SHARES, SHARES, rows);
    }
    workgroupBarrier();
    if me >= QUERIES {
        return;
    }
    let position = work.tile.start + me;
    if position >= work.tile.sequence.length {
        return;
    }
    let first = me / 4u * KEY_GROUPS;
    var all_largest = LOWEST;
    for (var i = 0u; i < KEY_GROUPS; i++) {
        all_largest = max(all_largest, memory[first + i][me % 4u]);
    }
    var all_total = 0.0;
    for (var i = 0u; i < KEY_GROUPS; i++) {
        let part = memory[WORKGROUP + first + i][me % 4u];
        all_total += part * exp(memory[first + i][me % 4u] - all_largest);
    }
    store_statistic(work, 0u, position, all_largest);
    store_statistic(work, 1u, position, all_total);
    if MEANS == 1u {
        var mean = 0.0;
        for (var i = 0u; i < SHARES; i++) {
            mean += memory[2u * WORKGROUP + me * SHARES + i].x;
        }
        store_statistic(work, 2u, position, mean);
    }
}
