// Fused attention: y_i = sum_j softmax_j(q_i k_j scale) v_j, block of keys by block of keys with a running softmax
// (Milakov and Gimelshein 2018; Dao et al. 2022). Scores never leave the workgroup's memory.
//
// A workgroup has QUERIES queries of a head, and up to 64 BLOCKS of its channels. For each block of KEYS keys it makes their
// scores by the product of shared/product.wgsl (queries as rows, keys as columns), turns them into weights, rescales what
// it has summed so far, and adds the weighted values. In memory, the operands of a product come first; behind them
// (from WEIGHTS on) lie the scores, then weights: key k of row quad q at WEIGHTS + k * WEIGHT_STEP + q, which is how a
// product wants its rows.

const LOWEST = -3.4028234e38;
const QUERIES = 64u;
const KEYS = 32u;
const ROW_GROUPS = QUERIES / 4u;
const KEY_GROUPS = KEYS / 4u;
const WEIGHTS = DEPTH * (ROW_GROUPS + 1u + KEY_GROUPS + 1u);
const WEIGHT_STEP = ROW_GROUPS + 1u;
// Quads of a block of channels, two for each column group, and from one staged key to the next.
const BLOCK_QUADS = VALUE_QUADS * KEY_GROUPS;
const VALUE_STEP = BLOCK_QUADS + 1u;

@group(0) @binding(6) var<storage, read> values: array<u32>;

fn value_word(word: u32) -> u32 {
    return values[word];
}

// The softmax of four queries so far. Invocations me, me + ROW_GROUPS, .. keep that of row quad me % ROW_GROUPS.
struct Running {
    largest: vec4<f32>,
    total: vec4<f32>,
}

// Turns the block's scores into weights, and leaves what the sums so far are to be scaled by at memory[row quad]. Each invocation has a row quad and four of the keys.
fn weigh_block(me: u32, running: ptr<function, Running>) {
    let quad = me % ROW_GROUPS;
    let share = me / ROW_GROUPS;
    let at = WEIGHTS + share * 4u * WEIGHT_STEP + quad;
    var largest = vec4<f32>(LOWEST);
    for (var i = 0u; i < 4u; i++) {
        largest = max(largest, memory[at + i * WEIGHT_STEP]);
    }
    // The operands of the scores have been read: their place is free.
    memory[WORKGROUP + me] = largest;
    workgroupBarrier();
    largest = (*running).largest;
    for (var i = 0u; i < KEY_GROUPS; i++) {
        largest = max(largest, memory[WORKGROUP + i * ROW_GROUPS + quad]);
    }
    let scale = exp((*running).largest - largest);
    var total = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        let scores = memory[at + i * WEIGHT_STEP];
        let weights = select(exp(scores - largest), vec4<f32>(0.0), scores <= vec4<f32>(LOWEST));
        memory[at + i * WEIGHT_STEP] = weights;
        total += weights;
    }
    memory[2u * WORKGROUP + me] = total;
    if share == 0u {
        memory[quad] = scale;
    }
    workgroupBarrier();
    total = (*running).total * scale;
    for (var i = 0u; i < KEY_GROUPS; i++) {
        total += memory[2u * WORKGROUP + i * ROW_GROUPS + quad];
    }
    *running = Running(largest, total);
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
    let score_blocks = Blocks(ROW_GROUPS, KEY_GROUPS);
    // Row and column group of this invocation, in scores and in sums.
    let row_group = me / KEY_GROUPS;
    let column_group = me % KEY_GROUPS;
    let first_channel = work.part * (4u * BLOCK_QUADS * BLOCKS);
    let seen = seen_by_tile(work, QUERIES);
    var running = Running(vec4<f32>(LOWEST), vec4<f32>(0.0));
    // Block b of channels: quads column_group and column_group + KEY_GROUPS, in slots 8 b and 8 b + 4.
    var sums: Weighted;
    for (var first = seen.x; first < seen.y; first += KEYS) {
        first_key = first;
        var scores: Sums;
        multiply(me, score_blocks, attention.head_channels, &scores);
        // From rows of queries to rows of keys.
        let interior = all_see(work, QUERIES, first, first + KEYS);
        var ranges: array<vec2<u32>, 4>;
        if !interior {
            for (var r = 0u; r < 4u; r++) {
                ranges[r] = seen_by(work, row_group * 4u + r);
            }
        }
        for (var c = 0u; c < 4u; c++) {
            let key = first + column_group * 4u + c;
            var column = vec4<f32>(scores[0][c], scores[1][c], scores[2][c], scores[3][c]) * attention.scale;
            if !interior {
                let begins = vec4<u32>(ranges[0].x, ranges[1].x, ranges[2].x, ranges[3].x);
                let ends = vec4<u32>(ranges[0].y, ranges[1].y, ranges[2].y, ranges[3].y);
                let sees = (vec4<u32>(key) >= begins) & (vec4<u32>(key) < ends);
                column = select(vec4<f32>(LOWEST), column, sees);
            }
            memory[WEIGHTS + (column_group * 4u + c) * WEIGHT_STEP + row_group] = column;
        }
        workgroupBarrier();
        weigh_block(me, &running);
        let scale = memory[row_group];
        for (var i = 0u; i < WEIGHTED; i += 4u) {
            sums[i] *= scale.x;
            sums[i + 1u] *= scale.y;
            sums[i + 2u] *= scale.z;
            sums[i + 3u] *= scale.w;
        }
        for (var k = 0u; k < KEYS; k += DEPTH) {
            let guarded = !all_see(work, QUERIES, first + k, first + k + DEPTH);
            let weights_at = WEIGHTS + k * WEIGHT_STEP + row_group;
            for (var b = 0u; b < BLOCKS; b++) {
                workgroupBarrier();
                stage_values(me, 0u, VALUE_STEP, BLOCK_QUADS, first + k, first_channel + 4u * BLOCK_QUADS * b);
                workgroupBarrier();
                let operands = Operands(weights_at, WEIGHT_STEP, column_group, VALUE_STEP, KEY_GROUPS);
                add_weighted(operands, guarded, 8u * b, &sums);
            }
        }
    }
    // Totals are kept by other invocations than sums.
    workgroupBarrier();
    if me < ROW_GROUPS {
        memory[me] = running.total;
    }
    workgroupBarrier();
    let totals = memory[row_group];
    for (var i = 0u; i < WEIGHTED; i += 4u) {
        let channel = first_channel + i / 8u * 4u * BLOCK_QUADS + (column_group + i / 4u % 2u * KEY_GROUPS) * 4u;
        for (var r = 0u; r < 4u; r++) {
            let position = work.tile.start + row_group * 4u + r;
            if position < work.tile.sequence.room && channel < attention.head_channels {
                // A query that sees no key, and a row of padding, gives zero.
                let range = seen_by(work, row_group * 4u + r);
                let value = select(vec4<f32>(0.0), sums[i + r] / totals[r], range.x < range.y);
                let row = work.tile.sequence.first + position;
                let column = work.head * attention.head_channels + channel;
                let element = row * attention.y_stride + attention.y_offset + column;
                store_quad(element, value, channel, attention.head_channels);
            }
        }
    }
}
