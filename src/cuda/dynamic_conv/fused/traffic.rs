use crate::cuda::dynamic_conv::fused::{Fused, Shape};
use crate::cuda::plan::WindowParams;
use crate::cuda::traffic::{SECTOR, Traffic, list, sectors, tiles_of};
use crate::gpu::{Tiles, listed};
use crate::problem::DynamicConvProblem;
use crate::{Result, Sequence, Sequences};

/// What the call reads and writes.
pub(crate) fn traffic(
    Fused { shape, generator }: &Fused,
    problem: &DynamicConvProblem,
    sequences: &Sequences,
) -> Result<Traffic> {
    let conv = problem.convolution();
    let listed = listed(sequences.shape()) || sequences.continues();
    let &Shape { block_heads, group_heads, .. } = shape;
    let tiles = Tiles { listed, ..shape.tiles };
    let (window, width) = (WindowParams::new(conv)?, conv.window().width());
    let (size, parameter) = (conv.dtype().size(), conv.parameters().size());
    let blocks: Vec<_> = (0..conv.heads())
        .step_by(block_heads)
        .map(|first| (first, (first + block_heads).min(conv.heads())))
        .collect();
    // Of one token's channels, read and written, by all blocks.
    let (mut read, mut written, mut parameters) = (0, 0, 0);
    for &(first, end) in &blocks {
        let [begin, end_channel] = [first, end].map(|head| head * conv.head_channels());
        read += sectors(begin / 8 * 8 * size, (end_channel - begin / 8 * 8) * size);
        written += sectors(begin * size, (end_channel - begin) * size);
        parameters += ((end - first) * width * (generator.channels * parameter).div_ceil(SECTOR)) as u64;
        if generator.has_bias {
            for head in (first..end).step_by(group_heads) {
                let logits = group_heads.min(end - head) * width;
                let run =
                    |at: usize| sectors((head * width + at) * parameter, (logits - at).min(32) * parameter);
                parameters += (0..logits).step_by(32).map(run).sum::<u64>();
            }
        }
    }
    let query = generator.separate.unwrap_or(conv.dtype());
    let queries = match shape.own_row {
        Some(_) => 0,
        None => (blocks.len() * (generator.channels * query.size()).div_ceil(SECTOR)) as u64,
    };
    let mut all = Traffic { parameters: list(&tiles, sequences), ..Traffic::default() };
    for tile in tiles_of(&tiles, sequences) {
        let Sequence { length, padding, .. } = tile.sequence;
        let computed = tile.outputs(&tiles, length);
        all.written += written * tile.outputs(&tiles, length + padding) as u64;
        if computed > 0 {
            all.read += read * tile.tokens(conv, &window, 0, tiles.steps + width - 1) as u64;
            all.read += queries * computed as u64;
            all.parameters += parameters;
        }
    }
    Ok(all)
}
