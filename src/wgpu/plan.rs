//! Plans: what a call launches, as data. Pure functions of a problem, of how its tensors lie, and of the device's limits.

use crate::problem::Convolution;
use crate::wgpu::limits::{Limits, within, word};
use crate::wgpu::shader::{Kernel, STEPS};
use crate::{Layout, Normalize, Result, SequenceShape, Window};

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

/// How the tokens of a call are divided among workgroups: see `shaders/shared/tiles.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiles {
    time: usize,
    sequences: usize,
    blocks: usize,
    span: usize,
    tiles: usize,
    dilation: usize,
    phases: usize,
    steps: usize,
    listed: bool,
    columns: usize,
    groups: usize,
}

impl Tiles {
    /// Tiles of at most `outputs` tokens (a multiple of [`STEPS`]), each divided into `columns` parts.
    pub(crate) fn new(
        shape: SequenceShape,
        window: Window,
        listed: bool,
        outputs: usize,
        columns: usize,
    ) -> Result<Self> {
        let dilation = window.dilation();
        let longest = shape.longest();
        // Kernels compute positions in 31 bits: a sequence, a window past either end of it, and a lane's own steps.
        let reach = [window.reach(), longest, dilation.saturating_mul(2 * STEPS)];
        let reach = reach.into_iter().fold(0, usize::saturating_add);
        within("tokens in reach of", "the window", reach as u64, (1 << 31) - 1)?;
        let steps = longest.div_ceil(dilation).next_multiple_of(STEPS).min(outputs).max(STEPS);
        let phases = (outputs / steps).min(dilation).min(longest).max(1);
        let tiles = dilation.min(longest).div_ceil(phases).max(1);
        let span = steps * dilation;
        within("tokens in a block of", "the window", (span + longest) as u64, (1 << 31) - 1)?;
        let (time, blocks, all) = match shape.layout() {
            Layout::Batch { time } | Layout::Padded { time } => {
                let blocks = time.div_ceil(span);
                (time, blocks, blocks.saturating_mul(shape.sequences()))
            }
            Layout::Packed => (0, 0, shape.tokens() / span + shape.sequences()),
        };
        let groups = all.saturating_mul(tiles).saturating_mul(columns);
        let sequences = shape.sequences();
        Ok(Tiles { time, sequences, blocks, span, tiles, dilation, phases, steps, listed, columns, groups })
    }

    /// Tokens of a tile.
    pub(crate) fn outputs(&self) -> usize {
        self.phases * self.steps
    }

    /// Workgroups.
    pub(crate) fn groups(&self) -> u64 {
        self.groups as u64
    }

    pub(crate) fn parameters(&self) -> Result<Vec<Parameter>> {
        parameters(&[
            ("time", self.time),
            ("sequences", self.sequences),
            ("blocks", self.blocks),
            ("span", self.span),
            ("tiles", self.tiles),
            ("dilation", self.dilation),
            ("phases", self.phases),
            ("steps", self.steps),
            ("listed", usize::from(self.listed)),
            ("columns", self.columns),
            ("groups", self.groups),
            ("unused", 0),
        ])
    }
}

/// The window of a convolution as its kernels see it: the same taps on the same tokens, with a dilation that is no longer
/// than it takes, so that positions can be counted in 31 bits.
pub(crate) fn window(conv: &Convolution) -> Window {
    let (window, time) = (conv.window(), conv.sequences().longest().max(1));
    let (width, dilation) = (window.width(), window.dilation());
    if width == 1 {
        return Window::causal(1).unwrap_or(window);
    }
    // With a history, tokens of the past are in reach however far they are.
    let enough = time.saturating_mul(2);
    if conv.has_history() || dilation <= enough {
        return window;
    }
    // Tap j reads token t + (j - a) r - b. At most two taps are in range: a, where b < T, and a + 1, where r - b < T.
    let (a, b) = (window.left() / dilation, window.left() % dilation);
    let b = if b < time { b } else { enough - (dilation - b).min(time) };
    Window::new(width, enough, a.saturating_mul(enough).saturating_add(b)).unwrap_or(window)
}

/// Parameters, each a size that a kernel can count.
pub(crate) fn parameters(sizes: &[(&'static str, usize)]) -> Result<Vec<Parameter>> {
    sizes.iter().map(|&(name, size)| Ok((name, word(name, "the call", size)?))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Sequences};

    /// The taps of each token that read one of the sequence's, and which.
    fn reads(window: Window, time: usize) -> Vec<(usize, usize, isize)> {
        let taps = |token| {
            window.taps_in_range(token, time, 0).map(move |tap| (token, tap, window.token(token, tap)))
        };
        (0..time).flat_map(taps).collect()
    }

    #[test]
    fn a_nearer_window_reads_the_same_tokens() {
        for time in [1, 2, 5, 8] {
            for width in [1, 2, 3, 5] {
                for dilation in [1, 2, 9, 10, 11, 16, 17, 40] {
                    for left in 0..=(width - 1) * dilation {
                        let far = Window::new(width, dilation, left).unwrap();
                        let shape = Sequences::batch(1, time).unwrap().shape();
                        let near = window(&Convolution::new(shape, 1, 1, far, DType::F32).unwrap());
                        assert!(near.dilation() <= 2 * time, "{near:?}");
                        assert_eq!(reads(far, time), reads(near, time), "{far:?} as {near:?}");
                    }
                }
            }
        }
    }
}
