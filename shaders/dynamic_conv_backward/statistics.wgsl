// The statistics of each token's and head's softmax, [tokens, H, 2] in f32: the largest logit of those that count, and the
// sum of exponentials. With them any kernel makes the weight of any tap on its own.
//
// It must read the logits once. A workgroup has a tile of tokens and some heads, whose logits go through its memory, so that
// they are read side by side.

struct Params {
    tiles: Tiles,
    conv: Convolution,
    dropout: Dropout,
    logits: Logits,
    // Quads of a chunk.
    quads: u32,
    y_offset: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let conv = params.conv;
    let here = tile_of(params.tiles, id, grid);
    if here.empty {
        return;
    }
    tile = here;
    tokens = params.tiles.phases * params.tiles.steps;
    first_head = here.column * params.logits.heads;
    let rows = params.logits.heads * (params.tiles.phases * params.tiles.steps);
    let softmax = measure_rows(me, rows, params.quads, conv.normalize, conv.width);
    let share = share_of(me, rows, params.quads);
    if share.row < rows && share.share == 0u {
        let row = row_of(share.row % tokens);
        let head = first_head + share.row / tokens;
        if row.y == 1u && head < params.logits.all_heads {
            store_pair(
                params.y_offset + 2u * (row.x * params.logits.all_heads + head),
                vec2<f32>(softmax.largest, softmax.total),
            );
        }
    }
}
