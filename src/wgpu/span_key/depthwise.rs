//! The depthwise convolution of a span key by itself, and the gradient of its filters.

use crate::gpu::{STEPS, Tiles, window, word};
use crate::problem::Convolution;
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Place, Tokens, parameters, tile_parameters};
use crate::wgpu::reduce::Parts;
use crate::wgpu::shader::{File, Kernel, WORKGROUP, code, store};
use crate::{DType, Result};

/// Channels side by side that a workgroup has at most.
const LANES: usize = 32;

/// Taps of an invocation that makes a gradient of filters.
const TAPS: usize = 8;

/// Lanes of a workgroup, and parts that so many channels are divided into.
fn lanes(channels: usize) -> (usize, usize) {
    let parts = channels.div_ceil(LANES);
    (channels.div_ceil(parts), parts)
}

/// y = depthwise_K(x), with the types of x and y; `conv` has the window, and says of which type the filters are. Those are
/// at `depthwise`, and are `reversed` where the window is the mirrored one of theirs. None where there are no tokens.
pub(super) fn plan_convolve(
    conv: &Convolution,
    [x, y]: [DType; 2],
    tokens: &Tokens,
    depthwise: usize,
    reversed: bool,
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    if conv.sequences().tokens() == 0 {
        return Ok(None);
    }
    let paired = y != DType::F32 && tokens.y.whole_words() && conv.channels().is_multiple_of(2);
    let (mut lanes, parts) = lanes(conv.channels());
    if paired {
        lanes = lanes.next_multiple_of(2);
    }
    let tiles = Tiles::new(conv.sequences(), window(conv), listed, WORKGROUP / lanes * STEPS, parts)?;
    let mut all = tile_parameters(&tiles)?;
    all.extend(tokens.parameters(conv, false)?);
    all.extend(parameters(&[
        ("lanes", lanes),
        ("time_groups", tiles.outputs() / STEPS),
        ("depthwise_offset", depthwise),
        ("reversed", usize::from(reversed)),
    ])?);
    let kernel = convolve_kernel(x, conv.parameters(), y, paired);
    Launch::new(kernel, tiles.groups(), all, limits).map(Some)
}

fn convolve_kernel(x: DType, parameters: DType, y: DType, paired: bool) -> Kernel {
    let files = [File::Element, File::LaneOne, store(y, paired), File::Tiles, File::Window];
    let files = files.into_iter().chain([File::Convolve, File::Memory]);
    Kernel {
        name: "span_key_backward",
        workgroup: WORKGROUP,
        files: files.chain([File::SpanKeyBackwardConvolve]).collect(),
        constants: vec![
            ("X", code(x)),
            ("P", code(parameters)),
            ("Y", code(y)),
            ("PAIRS", u32::from(paired)),
            ("PER_STEP", 0),
        ],
        inputs: 4,
    }
}

/// How the gradient of filters is divided among workgroups.
#[derive(Clone, Copy, Debug)]
struct Chunks {
    tiles: Tiles,
    lanes: usize,
    channel_parts: usize,
    tap_parts: usize,
    /// Tiles of a chunk.
    chunk: usize,
    chunks: usize,
}

fn chunks(conv: &Convolution, listed: bool) -> Result<Chunks> {
    /// Workgroups that keep a big GPU busy.
    const BUSY: usize = 256;
    /// Tokens of a tile: enough to have found their sequence for.
    const TOKENS: usize = 64;
    /// The most tokens of a chunk, and how many partial sums there is always room for: as in `linear::products`.
    const LONG_CHUNK: usize = 8192;
    const PARTIAL: usize = 16 << 20;
    let tiles = Tiles::new(conv.sequences(), window(conv), listed, TOKENS, 1)?;
    let (lanes, channel_parts) = lanes(conv.channels());
    let tap_parts = conv.window().width().div_ceil(TAPS);
    let filters = conv.channels().saturating_mul(conv.window().width());
    let wanted = BUSY.div_ceil(channel_parts.saturating_mul(tap_parts));
    let most = (PARTIAL / filters.min(PARTIAL)).max(1);
    let parts = wanted.max((tiles.groups * tiles.outputs()).div_ceil(LONG_CHUNK)).min(most);
    // Each group of lanes has a tile at least.
    let chunk = tiles.groups.div_ceil(parts).max(WORKGROUP / lanes);
    Ok(Chunks { tiles, lanes, channel_parts, tap_parts, chunk, chunks: tiles.groups.div_ceil(chunk).max(1) })
}

/// Numbers of scratch memory for the gradient of filters. Which of them there are does not depend on whether sequences are
/// listed.
pub(super) fn filters_scratch(conv: &Convolution) -> Result<u64> {
    let chunks = chunks(conv, true)?.chunks as u64;
    let sizes = [conv.channels() as u64, conv.window().width() as u64];
    Ok(sizes.into_iter().fold(chunks, u64::saturating_mul))
}

/// Parts of the gradient of filters `[C, K]`, from x of the type of `conv` and dd of f32, which reduce.wgsl adds up: the
/// launch, and where the parts lie from `partial` on.
pub(super) fn plan_filters(
    conv: &Convolution,
    x: Place,
    dd: Place,
    partial: usize,
    listed: bool,
    limits: &Limits,
) -> Result<(Launch, Parts)> {
    let Chunks { tiles, lanes, channel_parts, tap_parts, chunk, chunks } = chunks(conv, listed)?;
    let near = window(conv);
    let groups = [channel_parts, tap_parts].into_iter().fold(chunks, usize::saturating_mul);
    let mut all = tile_parameters(&tiles)?;
    all.extend(parameters(&[
        ("channels", conv.channels()),
        ("width", near.width()),
        ("left", near.left()),
        ("x_offset", x.offset),
        ("x_stride", x.stride),
        ("dd_offset", dd.offset),
        ("dd_stride", dd.stride),
        ("y_offset", partial),
        ("lanes", lanes),
        ("time_groups", WORKGROUP / lanes),
        ("channel_parts", channel_parts),
        ("tap_parts", tap_parts),
        ("chunk", chunk),
        ("all_groups", groups),
        ("unused_1", 0),
        ("unused_2", 0),
    ])?);
    let count = conv.channels() * near.width();
    word("elements of", "scratch", partial.saturating_add(chunks.saturating_mul(count)))?;
    let launch = Launch::new(filters_kernel(conv.dtype()), groups as u64, all, limits)?;
    Ok((launch, Parts { parts: chunks, count, offset: partial }))
}

fn filters_kernel(x: DType) -> Kernel {
    let files = [File::Element, store(DType::F32, true), File::Tiles, File::Memory];
    Kernel {
        name: "span_key_backward",
        workgroup: WORKGROUP,
        files: files.into_iter().chain([File::SpanKeyBackwardFilters]).collect(),
        constants: vec![("X", code(x)), ("Y", code(DType::F32))],
        inputs: 3,
    }
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(super) fn kernels() -> Vec<Kernel> {
    let mut all: Vec<_> = DType::ALL.map(filters_kernel).into();
    for (dtype, parameters) in crate::wgpu::shader::types() {
        for [x, y] in [[dtype, DType::F32], [DType::F32, dtype]] {
            for paired in [false, true].into_iter().filter(|paired| !paired || y != DType::F32) {
                let kernel = convolve_kernel(x, parameters, y, paired);
                if !all.contains(&kernel) {
                    all.push(kernel);
                }
            }
        }
    }
    all
}
