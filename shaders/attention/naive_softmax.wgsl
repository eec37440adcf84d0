// Naive attention, second of three dispatches: softmax of every row of scores over the keys that its query sees, in place;
// the others become zero. A workgroup has some queries of a head, and LANES invocations for each.

const LOWEST = -3.4028234e38;
const LANES = WORKGROUP / STEPS;

var<workgroup> shared_numbers: array<f32, WORKGROUP>;

// The largest of the numbers of a row's invocations.
fn largest_in_row(me: u32, number: f32) -> f32 {
    workgroupBarrier();
    shared_numbers[me] = number;
    workgroupBarrier();
    var largest = number;
    for (var i = 0u; i < LANES; i++) {
        largest = max(largest, shared_numbers[me / LANES * LANES + i]);
    }
    return largest;
}

// Their sum.
fn total_in_row(me: u32, number: f32) -> f32 {
    // Scores that others have read by now are going to be overwritten.
    storageBarrier();
    workgroupBarrier();
    shared_numbers[me] = number;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < LANES; i++) {
        total += shared_numbers[me / LANES * LANES + i];
    }
    return total;
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
    let query = me / LANES;
    let seen = seen_by(work, query);
    let row = work.head * attention.score_rows + work.tile.sequence.first + work.tile.start + query;
    let scores = attention.y_offset + row * attention.score_stride;
    var largest = LOWEST;
    for (var key = seen.x + me % LANES; key < seen.y; key += LANES) {
        largest = max(largest, bitcast<f32>(y[scores + key]));
    }
    largest = largest_in_row(me, largest);
    var total = 0.0;
    for (var key = seen.x + me % LANES; key < seen.y; key += LANES) {
        total += exp(bitcast<f32>(y[scores + key]) - largest);
    }
    total = total_in_row(me, total);
    if work.tile.start + query >= work.tile.sequence.length {
        return;
    }
    for (var key = me % LANES; key < attention.score_stride; key += LANES) {
        var weight = 0.0;
        if key >= seen.x && key < seen.y {
            weight = exp(bitcast<f32>(y[scores + key]) - largest) / total;
        }
        store_one(scores + key, weight);
    }
}
