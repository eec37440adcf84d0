// The rows of the band are summed over the tokens of a part of all tiles, [parts, H, K] in f32. Only tokens at the edges count.

const SUMMED = 1u;

// Where the sums of an invocation's head begin.
fn sums_of(square: Square, part: u32) -> u32 {
    let head = first_head + square.head;
    return params.part_offset + (part * params.logits.all_heads + head) * params.conv.width;
}

fn begin(square: Square, part: u32) {
    if square.works && square.group == 0u {
        for (var first = 4u * square.quad; first < params.conv.width; first += 4u * params.quads) {
            for (var tap = first; tap < min(first + 4u, params.conv.width); tap++) {
                store_one(sums_of(square, part) + tap, 0.0);
            }
        }
    }
}

// The sums of a tap are read and written by one invocation.
fn finish(me: u32, square: Square, quad: u32, has_taps: bool, part: u32, band: ptr<function, Band>) {
    var total = vec4<f32>(0.0);
    for (var n = 0u; n < STEPS; n++) {
        total += (*band)[n];
    }
    workgroupBarrier();
    memory[me] = total;
    workgroupBarrier();
    if has_taps && square.group == 0u {
        // From one group of the same head and quad to the next.
        total = vec4<f32>(0.0);
        for (var group = 0u; group < params.row_groups; group++) {
            total += memory[me + group * params.quads];
        }
        for (var j = 0u; j < 4u; j++) {
            if 4u * quad + j < params.conv.width {
                let element = sums_of(square, part) + 4u * quad + j;
                store_one(element, bitcast<f32>(y[element]) + total[j]);
            }
        }
    }
}
