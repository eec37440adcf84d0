// Sums of several parts, number by number, in the order of the parts: how the gradient of a parameter, which is a sum over
// all tokens, is put together from those of chunks of tokens. The parts, f32, are read once.

struct Params {
    // Numbers of a part.
    count: u32,
    parts: u32,
    x_offset: u32,
    y_offset: u32,
    // Workgroups there are; the grid may hold a few more.
    groups: u32,
    unused_1: u32,
    unused_2: u32,
    unused_3: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<u32>;

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
    // Two numbers for each invocation.
    let number = (group * WORKGROUP + me) * 2u;
    if number >= params.count {
        return;
    }
    let both = number + 1u < params.count;
    var sum = vec2<f32>(0.0);
    for (var part = 0u; part < params.parts; part++) {
        let element = params.x_offset + part * params.count + number;
        sum.x += bitcast<f32>(x[element]);
        if both {
            sum.y += bitcast<f32>(x[element + 1u]);
        }
    }
    if both {
        store_pair(params.y_offset + number, sum);
    } else {
        store_one(params.y_offset + number, sum.x);
    }
}
