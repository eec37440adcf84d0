// The gradients of fused attention, one a dispatch: with p the weights, made again from q, k and the statistics of each query,
//
//   dv_n = sum_i p_in dy_i, ds_in = p_in (dy_i v_n - mean_i), dq_i = scale sum_n ds_in k_n, dk_n = scale sum_i ds_in q_i
//
// (Dao et al. 2022, appendix B). Scores never leave the workgroup's memory.
//
// A workgroup has QUERIES tokens of a head, and up to 64 BLOCKS of its channels: queries for dq, and for dk and dv keys, which
// take the place of queries (shared/attention.wgsl). For each block of KEYS tokens that those see it makes their scores, and
// for dq and dk their gradients, by the product of shared/product.wgsl, and adds the tokens of the block, weighted. Each tile
// reads all that it sees once for each product, as the forward pass does: two for dv, three for the others, and the
// arithmetic outweighs the memory. In memory, the operands of a product come first; behind them (from WEIGHTS on) lie the
// weights: key k of row quad q at WEIGHTS + k * WEIGHT_STEP + q.

const QUERIES = 64u;
const KEYS = 32u;
const ROW_GROUPS = QUERIES / 4u;
const KEY_GROUPS = KEYS / 4u;
const WEIGHTS = DEPTH * (ROW_GROUPS + 1u + KEY_GROUPS + 1u);
const WEIGHT_STEP = ROW_GROUPS + 1u;
// Quads of a block of channels, two for each column group, and from one staged key to the next.
const BLOCK_QUADS = VALUE_QUADS * KEY_GROUPS;
const VALUE_STEP = BLOCK_QUADS + 1u;

// What GRADIENT may be.
const OF_QUERIES = 0u;
const OF_KEYS = 1u;
const OF_VALUES = 2u;

// f32, [head, 3, query]: largest score, sum of exponentials, and mean.
@group(0) @binding(8) var<storage, read> statistics: array<u32>;

// What is weighted: dy for dv, or else what the scores are made with.
fn value_word(word: u32) -> u32 {
    if GRADIENT == OF_VALUES {
        return other_keys[word];
    }
    return all_keys[word];
}

// Four queries: what makes weights and gradients of scores.
struct Statistics {
    largest: vec4<f32>,
    total: vec4<f32>,
    mean: vec4<f32>,
}

// Those of the queries of a sequence from a position on; anything for queries that there are not.
fn statistics_of(work: Work, sequence: Sequence, position: u32) -> Statistics {
    var found: Statistics;
    let rows = params.attention.score_rows;
    let first = work.head * 3u * rows + sequence.first + position;
    for (var i = 0u; i < 4u; i++) {
        if position + i < sequence.length {
            found.largest[i] = bitcast<f32>(statistics[first + i]);
            found.total[i] = bitcast<f32>(statistics[first + rows + i]);
            if GRADIENT != OF_VALUES {
                found.mean[i] = bitcast<f32>(statistics[first + 2u * rows + i]);
            }
        }
    }
    return found;
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
    var ranges: array<vec2<u32>, 4>;
    for (var r = 0u; r < 4u; r++) {
        ranges[r] = seen_by(work, row_group * 4u + r);
    }
    let begins = vec4<u32>(ranges[0].x, ranges[1].x, ranges[2].x, ranges[3].x);
    let ends = vec4<u32>(ranges[0].y, ranges[1].y, ranges[2].y, ranges[3].y);
    var found: Statistics;
    if GRADIENT == OF_QUERIES {
        found = statistics_of(work, work.tile.sequence, work.tile.start + row_group * 4u);
    }
    // Block b of channels: quads column_group and column_group + KEY_GROUPS, in slots 8 b and 8 b + 4.
    var sums: Weighted;
    for (var first = seen.x; first < seen.y; first += KEYS) {
        first_key = first;
        var scores: Sums;
        multiply(me, score_blocks, attention.head_channels, &scores);
        var gradients: Sums;
        if GRADIENT != OF_VALUES {
            second = true;
            multiply(me, score_blocks, attention.head_channels, &gradients);
            second = false;
        }
        if GRADIENT != OF_QUERIES {
            found = statistics_of(work, work.keys, first + column_group * 4u);
        }
        // From rows of queries to rows of keys.
        for (var c = 0u; c < 4u; c++) {
            let key = vec4<u32>(first + column_group * 4u + c);
            let column = vec4<f32>(scores[0][c], scores[1][c], scores[2][c], scores[3][c]) * attention.scale;
            var largest = found.largest;
            var total = found.total;
            var mean = found.mean;
            if GRADIENT != OF_QUERIES {
                largest = vec4<f32>(found.largest[c]);
                total = vec4<f32>(found.total[c]);
                mean = vec4<f32>(found.mean[c]);
            }
            var weights = exp(column - largest) / total;
            if GRADIENT != OF_VALUES {
                let of_weights = vec4<f32>(gradients[0][c], gradients[1][c], gradients[2][c], gradients[3][c]);
                weights *= of_weights - mean;
            }
            weights = select(vec4<f32>(0.0), weights, (key >= begins) & (key < ends));
            memory[WEIGHTS + (column_group * 4u + c) * WEIGHT_STEP + row_group] = weights;
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
    for (var i = 0u; i < WEIGHTED; i += 4u) {
        let channel = first_channel + i / 8u * 4u * BLOCK_QUADS + (column_group + i / 4u % 2u * KEY_GROUPS) * 4u;
        for (var r = 0u; r < 4u; r++) {
            let position = work.tile.start + row_group * 4u + r;
            if position < work.tile.sequence.room && channel < attention.head_channels {
                var value = sums[i + r];
                if GRADIENT != OF_VALUES {
                    value *= attention.scale;
                }
                // What sees nothing, and a row of padding, gives zero.
                value = select(vec4<f32>(0.0), value, ranges[r].x < ranges[r].y);
                let row = work.tile.sequence.first + position;
                let column = work.head * attention.head_channels + channel;
                let element = row * attention.y_stride + attention.y_offset + column;
                store_quad(element, value, channel, attention.head_channels);
            }
        }
    }
}
