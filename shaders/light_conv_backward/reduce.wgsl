// The gradient of a light convolution's weight from the parts of light_conv_backward/weight.wgsl: m g, or
// w (m g - sum_i w m g) with a softmax, where m are the factors of dropout. With a softmax over the taps in range, the tokens
// at the edges have weights of their own, and parts of what is left of them after the softmax are added here.
//
// A workgroup makes the gradient of a head: few numbers, each from all parts, in a fixed order.

struct Params {
    dropout: Dropout,
    heads: u32,
    // Taps K.
    width: u32,
    head_channels: u32,
    // 0: none, otherwise a softmax.
    normalize: u32,
    // Channels and heads of a column, and columns.
    column_channels: u32,
    column_heads: u32,
    columns: u32,
    // Numbers of a head and part.
    part_width: u32,
    parts: u32,
    part_offset: u32,
    // Parts of the edges, [parts, H K].
    edge_parts: u32,
    edge_offset: u32,
    weight_offset: u32,
    y_offset: u32,
    // Workgroups there are; the grid may hold a few more.
    groups: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> weight: array<u32>;
@group(0) @binding(3) var<storage, read> found: array<f32>;

var<workgroup> told: array<f32, WORKGROUP>;

fn logit_at(head: u32, tap: u32) -> f32 {
    let element = params.weight_offset + head * params.width + tap;
    return element_in(weight[word_of(element, P)], element, P);
}

// What the invocation's share of the parts has for a tap.
fn share_of_tap(head: u32, tap: u32, share: u32, among: u32) -> f32 {
    let first_column = head * params.head_channels / params.column_channels;
    let last_column = ((head + 1u) * params.head_channels - 1u) / params.column_channels;
    var total = 0.0;
    for (var column = first_column; column <= last_column; column++) {
        let slot = head - column * params.column_channels / params.head_channels;
        for (var part = share; part < params.parts; part += among) {
            let row = (part * params.columns + column) * params.column_heads + slot;
            total += found[params.part_offset + row * params.part_width + tap];
        }
    }
    return total;
}

// The largest of a number of all invocations, all of which must come here.
fn largest_of_all(me: u32, number: f32) -> f32 {
    told[me] = number;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if me < half {
            told[me] = max(told[me], told[me + half]);
        }
    }
    workgroupBarrier();
    let largest = told[0];
    workgroupBarrier();
    return largest;
}

// Their sum.
fn total_of_all(me: u32, number: f32) -> f32 {
    told[me] = number;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if me < half {
            told[me] += told[me + half];
        }
    }
    workgroupBarrier();
    let total = told[0];
    workgroupBarrier();
    return total;
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let head = id.x + grid.x * (id.y + grid.y * id.z);
    if head >= params.groups {
        return;
    }
    let softmax = params.normalize != 0u;
    var largest = -3.4028234e38;
    var total = 0.0;
    if softmax {
        for (var tap = me; tap < params.width; tap += WORKGROUP) {
            largest = max(largest, logit_at(head, tap));
        }
        largest = largest_of_all(me, largest);
        for (var tap = me; tap < params.width; tap += WORKGROUP) {
            total += exp(logit_at(head, tap) - largest);
        }
        total = total_of_all(me, total);
    }

    // Several invocations share the parts of a tap, where there are more of them than taps.
    let side = min(params.width, WORKGROUP);
    let among = WORKGROUP / side;
    let share = me / side;
    var dot = 0.0;
    // Where no token has a sum, no token's weights matter, whatever they are.
    var any = select(1.0, 0.0, softmax);
    for (var round = select(1u, 0u, softmax); round < 2u; round++) {
        for (var base = 0u; base < params.width; base += side) {
            let tap = base + me % side;
            told[me] = 0.0;
            if share < among && tap < params.width {
                told[me] = share_of_tap(head, tap, share, among);
            }
            workgroupBarrier();
            if share == 0u && tap < params.width {
                var sum = 0.0;
                for (var i = 0u; i < among; i++) {
                    sum += told[i * side + me];
                }
                let kept = factor(params.dropout, tap, head, 0u);
                sum = select(0.0, kept * sum, kept > 0.0);
                var w = 1.0;
                if softmax {
                    w = exp(logit_at(head, tap) - largest) / total;
                }
                if round == 0u {
                    dot += w * sum;
                    any = select(any, 1.0, sum != 0.0);
                } else {
                    var gradient = select(0.0, w * (sum - dot), any > 0.0);
                    for (var part = 0u; part < params.edge_parts; part++) {
                        let row = part * params.heads + head;
                        gradient += found[params.edge_offset + row * params.width + tap];
                    }
                    store_one(params.y_offset + head * params.width + tap, gradient);
                }
            }
            workgroupBarrier();
        }
        if round == 0u {
            dot = total_of_all(me, dot);
            any = largest_of_all(me, any);
        }
    }
}
