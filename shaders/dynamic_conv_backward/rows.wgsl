// The rows of the band are gradients of each token's own logits: they are written, zero in the padding.

const SUMMED = 0u;

fn begin(square: Square, part: u32) {}

fn finish(me: u32, square: Square, quad: u32, has_taps: bool, part: u32, band: ptr<function, Band>) {
    if !has_taps {
        return;
    }
    let head = first_head + square.head;
    for (var n = 0u; n < STEPS; n++) {
        let position = position_of(params.tiles, tile, square.group * STEPS + n);
        if position < tile.sequence.room {
            let row = tile.sequence.first + position;
            let tap = 4u * quad;
            let element = row * params.conv.y_stride + params.conv.y_offset + head * params.conv.width + tap;
            let values = select(vec4<f32>(0.0), (*band)[n], position < tile.sequence.length);
            store_quad(element, values, tap, params.conv.width);
        }
    }
}
