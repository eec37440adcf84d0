//! What a dynamic convolution launches.

use crate::gpu::{STEPS, Tiles, window};
use crate::problem::{Convolution, DynamicConvProblem, LinearProblem, Taps};
use crate::wgpu::limits::Limits;
use crate::wgpu::linear::{self, Places};
use crate::wgpu::plan::{Launch, Parameter, Place, Tokens, dropout_parameters, parameters, tile_parameters};
use crate::wgpu::shader::{DEPTH, File, Kernel, Lane, MEMORY, WORKGROUP, code};
use crate::{DType, Result};

/// Where the tensors of a dynamic convolution lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DynamicPlaces {
    pub(crate) tokens: Tokens,
    /// Logits or W.
    pub(crate) source: Place,
    pub(crate) query: Place,
    pub(crate) weight_bias: usize,
    /// Of the dropout.
    pub(crate) seed: u64,
}

impl DynamicPlaces {
    pub(crate) fn contiguous(problem: &DynamicConvProblem) -> Self {
        let channels = problem.convolution().channels();
        let query = match problem.taps() {
            Taps::Given => channels,
            Taps::Generated { query_channels, .. } => query_channels,
        };
        DynamicPlaces {
            tokens: Tokens::contiguous(channels, channels),
            source: Place::contiguous(problem.logits()),
            query: Place::contiguous(query),
            weight_bias: 0,
            seed: 0,
        }
    }
}

/// Numbers of scratch memory.
pub(crate) fn scratch_len(problem: &DynamicConvProblem) -> u64 {
    let conv = problem.convolution();
    match problem.taps() {
        Taps::Generated { .. } if fused_tile(conv).is_none() => {
            (conv.sequences().tokens() as u64).saturating_mul(problem.logits() as u64)
        }
        _ => 0,
    }
}

/// The dispatches: one, or the generating product and the convolution, or none where there is no token.
pub(crate) fn plan(
    problem: &DynamicConvProblem,
    places: &DynamicPlaces,
    listed: bool,
    limits: &Limits,
) -> Result<Vec<Launch>> {
    let conv = problem.convolution();
    let DynamicPlaces { tokens, source, query, weight_bias, seed } = *places;
    if conv.sequences().tokens() == 0 {
        return Ok(vec![]);
    }
    let Taps::Generated { query_channels, query: query_dtype, weight_bias: has_weight_bias } = problem.taps()
    else {
        let logits = Logits { dtype: conv.parameters(), offset: source.offset, stride: source.stride };
        return Ok(vec![plan_given(conv, &tokens, logits, seed, listed, limits)?]);
    };
    let query_dtype = query_dtype.unwrap_or(conv.dtype());
    let Some(tile) = fused_tile(conv) else {
        let generate = plan_generate(problem, query, (source.offset, weight_bias), limits)?;
        let logits = Logits { dtype: DType::F32, offset: 0, stride: problem.logits() };
        let convolve = plan_given(conv, &tokens, logits, seed, listed, limits)?;
        return Ok(generate.into_iter().chain([convolve]).collect());
    };
    let lane = Lane::new(conv.dtype(), tokens.whole_words(conv), conv.head_channels());
    let columns = conv.heads().div_ceil(tile.heads);
    let tiles = Tiles::new(conv.sequences(), window(conv), listed, tile.outputs, columns)?;
    let weight = Place { offset: source.offset, stride: query_channels };
    let kernel = kernel(Types {
        dtype: conv.dtype(),
        parameters: conv.parameters(),
        source: conv.parameters(),
        y: conv.dtype(),
        query: Some(query_dtype),
        gathered: false,
        paired: weight.whole_words() && query.whole_words(),
        lane,
    });
    let quads = conv.window().width().div_ceil(4);
    let mut all = tile_parameters(&tiles)?;
    all.extend(tokens.parameters(conv, conv.has_bias())?);
    all.extend(dropout_parameters(conv, seed));
    all.extend(logit_parameters(conv, (source.offset, 0), tile.heads)?);
    all.extend(parameters(&[
        ("quads", quads),
        ("row_groups", tiles.outputs() / 4),
        ("column_groups", tile.heads * quads),
        ("query_channels", query_channels),
        ("query_offset", query.offset),
        ("query_stride", query.stride),
        ("weight_bias_offset", weight_bias),
        ("has_weight_bias", usize::from(has_weight_bias)),
    ])?);
    let kernel = kernel.with_dropout(conv.dropout().is_some());
    Ok(vec![Launch::new(kernel, tiles.groups(), all, limits)?])
}

/// The product that generates the logits, in f32 and without a gap between tokens: none where they are given, or there is no
/// token.
pub(crate) fn plan_generate(
    problem: &DynamicConvProblem,
    query: Place,
    (weight, bias): (usize, usize),
    limits: &Limits,
) -> Result<Option<Launch>> {
    let (conv, logits) = (problem.convolution(), problem.logits());
    let Taps::Generated { query_channels, query: dtype, weight_bias } = problem.taps() else {
        return Ok(None);
    };
    let dtype = dtype.unwrap_or(conv.dtype());
    let product = LinearProblem::new(conv.sequences().tokens(), query_channels, logits, dtype)?;
    let y = Place::contiguous(logits);
    let lies = Places { x: query, weight, bias, residual: y, y };
    let types = linear::Types { x: dtype, parameters: conv.parameters(), y: DType::F32 };
    linear::plan(&product.with_bias(weight_bias), &lies, types, limits)
}

/// Logits that are given, and where they lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logits {
    pub(crate) dtype: DType,
    pub(crate) offset: usize,
    /// From one token to the next; 0 where all have the same.
    pub(crate) stride: usize,
}

/// The structure `Logits` of `shaders/shared/logits.wgsl`: where they begin, how far it is from one token to the next, and
/// how many heads a tile has.
pub(crate) fn logit_parameters(
    conv: &Convolution,
    (offset, stride): (usize, usize),
    heads: usize,
) -> Result<Vec<Parameter>> {
    parameters(&[
        ("source_offset", offset),
        ("logit_stride", stride),
        ("heads", heads),
        ("all_heads", conv.heads()),
    ])
}

/// The convolution with logits that are given.
pub(crate) fn plan_given(
    conv: &Convolution,
    tokens: &Tokens,
    logits: Logits,
    seed: u64,
    listed: bool,
    limits: &Limits,
) -> Result<Launch> {
    plan_with(conv, tokens, (logits, seed), (None, conv.dtype()), (listed, limits))
}

/// The gradient of x, of type `y`, by the convolution `conv` of dy along the mirrored window: with the taps of the tokens
/// that read a token, and the statistics of their softmax at an offset.
pub(crate) fn plan_gathered(
    conv: &Convolution,
    tokens: &Tokens,
    (logits, statistics): ((Logits, u64), usize),
    y: DType,
    on: (bool, &Limits),
) -> Result<Launch> {
    plan_with(conv, tokens, logits, (Some(statistics), y), on)
}

fn plan_with(
    conv: &Convolution,
    tokens: &Tokens,
    (logits, seed): (Logits, u64),
    (statistics, y): (Option<usize>, DType),
    (listed, limits): (bool, &Limits),
) -> Result<Launch> {
    let lane = Lane::new(conv.dtype(), tokens.whole_words(conv), conv.head_channels());
    let tile = given_tile(conv);
    let columns = conv.heads().div_ceil(tile.heads);
    let tiles = Tiles::new(conv.sequences(), window(conv), listed, tile.outputs, columns)?;
    let mut all = tile_parameters(&tiles)?;
    all.extend(tokens.parameters(conv, conv.has_bias())?);
    all.extend(dropout_parameters(conv, seed));
    all.extend(logit_parameters(conv, (logits.offset, logits.stride), tile.heads)?);
    all.extend(parameters(&[
        ("quads", tile.quads),
        ("row_groups", 0),
        ("column_groups", 0),
        ("query_channels", 0),
        // Statistics come in the place of the query.
        ("query_offset", statistics.unwrap_or(0)),
        ("query_stride", 0),
        ("weight_bias_offset", 0),
        ("has_weight_bias", 0),
    ])?);
    let (dtype, parameters, source) = (conv.dtype(), conv.parameters(), logits.dtype);
    let kernel = kernel(Types {
        dtype,
        parameters,
        source,
        y,
        query: None,
        gathered: statistics.is_some(),
        paired: false,
        lane,
    });
    Launch::new(kernel.with_dropout(conv.dropout().is_some()), tiles.groups(), all, limits)
}

/// What a workgroup makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    heads: usize,
    /// Tokens.
    outputs: usize,
    /// Quads of taps that are in memory at a time.
    quads: usize,
}

/// Tokens of the longest sequence that a tile can hold, in whole lanes.
pub(crate) fn longest(conv: &Convolution) -> usize {
    conv.sequences().longest().next_multiple_of(STEPS).max(STEPS)
}

/// The fewest heads that a tile can be divided into: two where the channels of a word may be of two heads.
fn step(conv: &Convolution) -> usize {
    if conv.head_channels().is_multiple_of(2) || conv.heads() == 1 { 1 } else { 2 }
}

/// The tile that generates its taps, or `None` where they had better be generated by a product of their own: where so
/// many taps do not fit, or so few of them are in a tile that most of its lanes would idle.
///
/// Of the tiles that fit it takes the one that stages the fewest numbers of q and W.
fn fused_tile(conv: &Convolution) -> Option<Tile> {
    let quads = conv.window().width().div_ceil(4);
    // Rows and columns of one stage, each with a quad to spare, must fit as well as the logits.
    let room = MEMORY / DEPTH - 2;
    let rows = |heads: usize| {
        let columns = heads * quads;
        let quads = (WORKGROUP / columns).min(room.checked_sub(columns)?).min(MEMORY / 4 / columns);
        let outputs = (4 * quads / STEPS * STEPS).min(longest(conv));
        (outputs > 0).then_some(Tile { heads, outputs, quads: columns / heads })
    };
    let staged = |tile: &Tile| {
        let tiles = longest(conv).div_ceil(tile.outputs) as u64 * conv.heads().div_ceil(tile.heads) as u64;
        tiles * (tile.outputs + 4 * tile.heads * quads) as u64
    };
    let heads = (1..=conv.heads().min(room)).map(|i| (i * step(conv)).min(conv.heads()));
    let tile = heads.map_while(rows).min_by_key(staged)?;
    let useful = tile.outputs * tile.heads * conv.window().width();
    // Not measured on a GPU yet. The lanes of a tile hold 16 logits each; a product of its own would make use of nearly all
    // of them, and write and read 8 bytes for each logit. A call of few tokens is over before either matters.
    let fits = 5 * useful >= 3 * 16 * WORKGROUP || conv.sequences().tokens() <= 1024;
    fits.then_some(tile)
}

/// The tile for taps whose logits are given.
fn given_tile(conv: &Convolution) -> Tile {
    /// Channels side by side that keep a group of lanes busy.
    const CHANNELS: usize = 64;
    const OUTPUTS: usize = 128;
    let quads = conv.window().width().div_ceil(4);
    let step = step(conv);
    let mut heads = CHANNELS.div_ceil(conv.head_channels()).next_multiple_of(step).min(conv.heads());
    while heads > step && heads * quads * STEPS > MEMORY {
        heads = (heads / 2).next_multiple_of(step);
    }
    let outputs = (MEMORY / (heads * quads) / STEPS * STEPS).min(OUTPUTS).min(longest(conv));
    if outputs > 0 {
        return Tile { heads, outputs, quads };
    }
    // Not even one group of lanes: the taps come in chunks.
    Tile { heads, outputs: STEPS, quads: MEMORY / (heads * STEPS) }
}

struct Types {
    dtype: DType,
    parameters: DType,
    /// Of logits or W.
    source: DType,
    /// Of the outputs.
    y: DType,
    /// Where taps are generated.
    query: Option<DType>,
    /// Whether the taps are those of other tokens, for the gradient of x.
    gathered: bool,
    paired: bool,
    lane: Lane,
}

fn kernel(types: Types) -> Kernel {
    let Types { dtype, parameters, source, y, query, gathered, paired, lane } = types;
    let taps = if gathered { File::GatheredTaps } else { File::GivenTaps };
    let files = [File::Element, lane.file(), lane.store(y), File::Tiles, File::Window];
    // Numbers of 32 bits are whole words anyway.
    let paired = paired && (source != DType::F32 || query.is_some_and(|query| query != DType::F32));
    let taps = [File::Convolve, File::Memory, File::Dropout, File::Taps, File::Logits, taps];
    let product = [File::Blocks, File::Product, File::StageRows, File::StageColumns];
    Kernel {
        name: "dynamic_conv",
        workgroup: WORKGROUP,
        files: files.into_iter().chain(taps).chain(product).chain([File::DynamicConv]).collect(),
        constants: vec![
            ("X", code(dtype)),
            ("Y", code(y)),
            ("P", code(parameters)),
            ("S", code(source)),
            ("Q", code(query.unwrap_or(DType::F32))),
            ("GENERATED", u32::from(query.is_some())),
            ("PAIRED", u32::from(paired)),
            ("SPLIT", lane.split()),
            ("PER_STEP", 1),
            ("ROW_QUADS", 1),
            ("COLUMN_QUADS", 1),
        ],
        inputs: 7,
    }
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    use crate::wgpu::shader::types;
    let mut all = vec![];
    for (dtype, parameters) in types() {
        for lane in Lane::ALL.into_iter().filter(|&lane| dtype != DType::F32 || lane == Lane::One) {
            let mut add = |source, query, paired, gathered, y| {
                let kernel = kernel(Types { dtype, parameters, source, y, query, gathered, paired, lane });
                for kernel in kernel.both_dropouts() {
                    if !all.contains(&kernel) {
                        all.push(kernel);
                    }
                }
            };
            for source in [parameters, DType::F32] {
                add(source, None, false, false, dtype);
                [dtype, DType::F32].into_iter().for_each(|y| add(source, None, false, true, y));
            }
            for (query, paired) in [dtype, DType::F32].into_iter().flat_map(|q| [(q, false), (q, true)]) {
                add(parameters, Some(query), paired, false, dtype);
            }
        }
    }
    all
}
