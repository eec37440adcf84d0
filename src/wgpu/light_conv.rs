mod backward;

pub use backward::{LightConvBackward, LightConvBackwardArgs};
#[cfg(test)]
pub(crate) use backward::{Places as BackwardPlaces, kernels as backward_kernels, plan as backward_plan};

use crate::gpu::{STEPS, Tiles, listed, window};
use crate::problem::{Convolution, LightConvProblem};
use crate::wgpu::call::{Binder, Call, Elements, Rows};
use crate::wgpu::dynamic_conv::{self, Logits};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, Tokens, dropout_parameters, parameters, tile_parameters};
use crate::wgpu::sequences::DeviceSequences;
use crate::wgpu::shader::{File, Kernel, Lane, MEMORY, WORKGROUP, code};
use crate::{DType, Normalize, Result};

/// Light convolution, prepared: see [`LightConvProblem`].
#[derive(Clone, Debug)]
pub struct LightConv {
    gpu: Gpu,
    problem: LightConvProblem,
}

/// What [`LightConv::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct LightConvArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[H, K]`, before normalisation.
    pub weight: Elements<'a>,
    /// `[C]`, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// `[sequences, (K - 1) r, C]`, where the problem has one.
    pub history: Option<Elements<'a>>,
    /// What decides which weights are dropped, where the problem has dropout.
    pub seed: Option<u64>,
    /// `[tokens, C]`, overwritten.
    pub y: Rows<'a>,
}

impl LightConv {
    /// Plans the call and compiles its kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: LightConvProblem) -> Result<Self> {
        let conv = problem.convolution();
        gpu.limits().check_convolution(conv, ["x", "history", "y"])?;
        gpu.limits().check_tensors(&[("weight", &problem.weight_shape(), conv.parameters())])?;
        let tokens = Tokens::contiguous(conv.channels(), conv.channels());
        if let Some(launch) = plan(&problem, &tokens, (0, 0), listed(conv.sequences()), gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(LightConv { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LightConvProblem {
        &self.problem
    }

    /// A call on these buffers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input,
    /// sequences of another shape, an input that is missing or not part of the problem, and errors of the driver.
    pub fn bind(&self, args: LightConvArgs<'_>) -> Result<Call> {
        let conv = self.problem.convolution();
        let LightConvArgs { sequences, x, weight, bias, history, seed, y } = args;
        let binder = Binder { gpu: &self.gpu };
        let seed = binder.seed(conv, seed)?;
        let y = (y, conv.dtype(), conv.channels());
        let bound = binder.convolved(["x", "history", "y"], conv, sequences, x, history, y)?;
        let [heads, width] = self.problem.weight_shape();
        let weight = binder.elements("weight", weight, conv.parameters(), heads * width)?;
        let bias = binder.optional("bias", bias, conv.has_bias(), conv.parameters(), conv.channels())?;
        let tokens = Tokens { bias: bias.place.offset, ..bound.tokens };
        let mut call = Call::empty();
        let offset = weight.place.offset;
        let launch = plan(&self.problem, &tokens, (offset, seed), sequences.listed(), self.gpu.limits())?;
        if let Some(launch) = launch {
            let mut inputs = bound.inputs.to_vec();
            inputs.extend([weight, bias]);
            while inputs.len() < launch.kernel.inputs as usize {
                inputs.push(binder.nothing("nothing"));
            }
            call.push(&self.gpu, &launch, bound.y, &inputs)?;
        }
        Ok(call)
    }
}

/// Words side by side that a tile of outputs has at most.
const LANES: usize = 32;

/// The one dispatch, or none where there is no token, with the offset of the weight and the seed.
pub(crate) fn plan(
    problem: &LightConvProblem,
    tokens: &Tokens,
    (weight, seed): (usize, u64),
    listed: bool,
    limits: &Limits,
) -> Result<Option<Launch>> {
    let conv = problem.convolution();
    if conv.sequences().tokens() == 0 {
        return Ok(None);
    }
    if conv.normalize() == Normalize::SoftmaxInRange {
        // The weights differ from token to token: the taps of a dynamic convolution whose tokens have the same logits.
        let logits = Logits { dtype: conv.parameters(), offset: weight, stride: 0 };
        return dynamic_conv::plan_given(conv, tokens, logits, seed, listed, limits).map(Some);
    }
    plan_same(conv, tokens, (weight, seed), false, (listed, limits)).map(Some)
}

/// The dispatch where all tokens have the same weights: those of the weight, or of its numbers `reversed` for the gradient
/// of x along the mirrored window.
pub(crate) fn plan_same(
    conv: &Convolution,
    tokens: &Tokens,
    (weight, seed): (usize, u64),
    reversed: bool,
    (listed, limits): (bool, &Limits),
) -> Result<Launch> {
    let lane = Lane::new(conv.dtype(), tokens.whole_words(conv), conv.head_channels());
    let words = conv.channels() / lane.channels();
    let columns = words.div_ceil(LANES);
    let lanes = words.div_ceil(columns);
    let tiles = Tiles::new(conv.sequences(), window(conv), listed, WORKGROUP / lanes * STEPS, columns)?;
    // As many heads as so many channels can touch.
    let (channels, head_channels) = (lanes * lane.channels(), conv.head_channels());
    let heads = ((channels + head_channels - 2) / head_channels + 1).min(conv.heads());
    let quads = (MEMORY / heads).min(conv.window().width().div_ceil(4));
    let mut all = tile_parameters(&tiles)?;
    all.extend(tokens.parameters(conv, conv.has_bias())?);
    all.extend(parameters(&[
        ("lanes", lanes),
        ("time_groups", tiles.outputs() / STEPS),
        ("quads", quads),
        ("weight_offset", weight),
    ])?);
    all.extend(dropout_parameters(conv, seed));
    all.extend(parameters(&[
        ("reversed", usize::from(reversed)),
        ("unused_1", 0),
        ("unused_2", 0),
        ("unused_3", 0),
    ])?);
    let kernel = kernel(conv.dtype(), conv.parameters(), lane).with_dropout(conv.dropout().is_some());
    Launch::new(kernel, tiles.groups(), all, limits)
}

fn kernel(dtype: DType, parameters: DType, lane: Lane) -> Kernel {
    let files = [File::Element, lane.file(), lane.store(dtype), File::Tiles, File::Window];
    Kernel {
        name: "light_conv",
        workgroup: WORKGROUP,
        files: files
            .into_iter()
            .chain([File::Convolve, File::Memory, File::Dropout, File::Taps, File::LightConv])
            .collect(),
        constants: vec![
            ("X", code(dtype)),
            ("Y", code(dtype)),
            ("P", code(parameters)),
            ("SPLIT", lane.split()),
            ("PER_STEP", 0),
        ],
        inputs: 5,
    }
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    use crate::wgpu::shader::types;
    let lanes = |(dtype, parameters)| {
        Lane::ALL
            .into_iter()
            .filter(move |&lane| dtype != DType::F32 || lane == Lane::One)
            .flat_map(move |lane| kernel(dtype, parameters, lane).both_dropouts())
    };
    types().into_iter().flat_map(lanes).collect()
}
