// The sum of da [tokens, outputs] over the tokens of a chunk, for each output: dbias, once reduce.wgsl has added up the
// chunks. It must read da once, and does.
//
// A workgroup has PAIRS pairs of outputs side by side, and TOKENS invocations for each, which take turns.

const PAIRS = 32u;
const TOKENS = WORKGROUP / PAIRS;

var<workgroup> shared_sums: array<vec2<f32>, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let group = id.x + grid.x * (id.y + grid.y * id.z);
    if group >= params.groups {
        return;
    }
    let chunk = group / params.tiles;
    let output = (group % params.tiles * PAIRS + me % PAIRS) * 2u;
    let begin = chunk * params.chunk;
    let end = begin + min(params.chunk, params.tokens - begin);
    var sum = vec2<f32>(0.0);
    for (var token = begin + me / PAIRS; token < end; token += TOKENS) {
        sum += da_pair(token, output);
    }
    shared_sums[me] = sum;
    workgroupBarrier();
    if me >= PAIRS || output >= params.outputs {
        return;
    }
    for (var i = 1u; i < TOKENS; i++) {
        sum += shared_sums[i * PAIRS + me];
    }
    let element = params.y_offset + chunk * params.outputs + output;
    if output + 1u < params.outputs {
        store_pair(element, sum);
    } else {
        store_one(element, sum.x);
    }
}
