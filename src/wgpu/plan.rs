//! Plans: what a call launches, as data. Pure functions of a problem, of how its tensors lie, and of the device's limits.

use crate::gpu::{Tiles, window, within, word};
use crate::problem::Convolution;
use crate::wgpu::limits::Limits;
use crate::wgpu::shader::Kernel;
use crate::{Normalize, Result};

/// A parameter of a kernel, by the name that it has there.
pub(crate) type Parameter = (&'static str, u32);

/// One dispatch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Launch {
    pub(crate) kernel: Kernel,
    pub(crate) grid: [u32; 3],
    /// In the order of the kernel's structure.
    pub(crate) parameters: Vec<Parameter>,
}

impl Launch {
    /// An error where the device has less than the kernel asks for.
    pub(crate) fn new(
        kernel: Kernel,
        groups: u64,
        parameters: Vec<Parameter>,
        limits: &Limits,
    ) -> Result<Self> {
        use crate::wgpu::shader::WORKGROUP_BYTES;
        within(
            "bytes of workgroup memory of",
            kernel.name,
            WORKGROUP_BYTES as u64,
            limits.workgroup_memory.into(),
        )?;
        within(
            "invocations in a workgroup of",
            kernel.name,
            kernel.workgroup as u64,
            limits.invocations.into(),
        )?;
        let buffers = u64::from(kernel.inputs) + 1;
        within("storage buffers of", kernel.name, buffers, limits.storage_buffers.into())?;
        let grid = limits.grid(groups)?;
        Ok(Launch { kernel, grid, parameters })
    }
}

/// Where a tensor's rows lie in its binding, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// Of the first element.
    pub(crate) offset: usize,
    /// From one row to the next.
    pub(crate) stride: usize,
}

impl Place {
    /// Rows of `channels` without a gap, from the binding's first element on.
    pub(crate) fn contiguous(channels: usize) -> Self {
        Place { offset: 0, stride: channels }
    }

    /// Whether every row begins on a whole word of 16-bit numbers.
    pub(crate) fn whole_words(self) -> bool {
        self.offset.is_multiple_of(2) && self.stride.is_multiple_of(2)
    }
}

/// Where the tiles of a call begin and end: the structure `Tiles` of `shaders/shared/tiles.wgsl`.
pub(crate) fn tile_parameters(tiles: &Tiles) -> Result<Vec<Parameter>> {
    parameters(&[
        ("time", tiles.time),
        ("sequences", tiles.sequences),
        ("blocks", tiles.stretches),
        ("span", tiles.span),
        ("tiles", tiles.tiles),
        ("dilation", tiles.dilation),
        ("phases", tiles.phases),
        ("steps", tiles.steps),
        ("listed", usize::from(tiles.listed)),
        ("columns", tiles.columns),
        ("groups", tiles.groups),
        ("unused", 0),
    ])
}

/// Parameters, each a size that a kernel can count.
pub(crate) fn parameters(sizes: &[(&'static str, usize)]) -> Result<Vec<Parameter>> {
    sizes.iter().map(|&(name, size)| Ok((name, word(name, "the call", size)?))).collect()
}

/// The structure `Dropout` of `shaders/shared/dropout.wgsl`.
pub(crate) fn dropout_parameters(conv: &Convolution, seed: u64) -> [Parameter; 4] {
    let (threshold, scale) = conv.dropout().map_or((0, 1.0), |rate| (rate.threshold(), rate.scale()));
    [
        ("threshold", threshold),
        ("scale", scale.to_bits()),
        ("seed_low", seed as u32),
        ("seed_high", (seed >> 32) as u32),
    ]
}

/// Where the tensors of a convolution lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tokens {
    pub(crate) x: Place,
    pub(crate) y: Place,
    /// Offset of the history.
    pub(crate) history: usize,
    /// Offset of the bias.
    pub(crate) bias: usize,
}

impl Tokens {
    pub(crate) fn contiguous(x: usize, y: usize) -> Self {
        Tokens { x: Place::contiguous(x), y: Place::contiguous(y), history: 0, bias: 0 }
    }

    /// Whether every row of x, history and y begins on a whole word of 16-bit numbers.
    pub(crate) fn whole_words(&self, conv: &Convolution) -> bool {
        let history = Place { offset: self.history, stride: conv.channels() };
        self.x.whole_words() && self.y.whole_words() && history.whole_words()
    }

    /// The structure `Convolution` of `shaders/shared/convolve.wgsl`.
    pub(crate) fn parameters(&self, conv: &Convolution, bias: bool) -> Result<Vec<Parameter>> {
        let window = window(conv);
        let normalize = match conv.normalize() {
            Normalize::None => 0,
            Normalize::Softmax => 1,
            Normalize::SoftmaxInRange => 2,
        };
        parameters(&[
            ("width", window.width()),
            ("dilation", window.dilation()),
            ("left", window.left()),
            ("reach", window.reach()),
            ("channels", conv.channels()),
            ("head_channels", conv.head_channels()),
            ("normalize", normalize),
            ("has_bias", usize::from(bias)),
            ("x_offset", self.x.offset),
            ("x_stride", self.x.stride),
            ("history_offset", self.history),
            ("y_offset", self.y.offset),
            ("y_stride", self.y.stride),
            ("bias_offset", self.bias),
            ("unused_1", 0),
            ("unused_2", 0),
        ])
    }
}
