use crate::gpu::within;
use crate::problem::Convolution;
use crate::{Layout, Result, SequenceShape, Window};

/// Outputs of a thread, one dilation apart.
pub(crate) const STEPS: usize = 8;

/// How the tokens of a call are divided among groups of threads: see `kernels/shared/tiles.cuh` and
/// `shaders/shared/tiles.wgsl`, which say the same (WGSL calls a stretch a block).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiles {
    /// Rows of each sequence of a rectangular batch; 0 for a packed one.
    pub(crate) time: usize,
    /// Sequences.
    pub(crate) sequences: usize,
    /// Stretches of each sequence of a rectangular batch.
    pub(crate) stretches: usize,
    /// Tokens of a stretch.
    pub(crate) span: usize,
    /// Tiles of a stretch.
    pub(crate) tiles: usize,
    /// Tokens from one step of a tile to the next.
    pub(crate) dilation: usize,
    /// Phases of a tile.
    pub(crate) phases: usize,
    /// Steps of a phase.
    pub(crate) steps: usize,
    /// Whether kernels read the list of sequences.
    pub(crate) listed: bool,
    /// Parts that the channels of a tile are divided into.
    pub(crate) columns: usize,
    /// Groups of threads.
    pub(crate) groups: usize,
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
        let (dilation, longest) = (window.dilation(), shape.longest());
        let steps = longest.div_ceil(dilation).next_multiple_of(STEPS).min(outputs).max(STEPS);
        let phases = (outputs / steps).min(dilation).min(longest).max(1);
        Tiles::of(shape, window, listed, [phases, steps], columns)
    }

    /// Tiles of so many phases and steps, each divided into `columns` parts.
    pub(crate) fn of(
        shape: SequenceShape,
        window: Window,
        listed: bool,
        [phases, steps]: [usize; 2],
        columns: usize,
    ) -> Result<Self> {
        let (dilation, longest) = (window.dilation(), shape.longest());
        // Kernels compute positions in 31 bits: a sequence, a window past either end of it, and a lane's own steps.
        let reach = [window.reach(), longest, dilation.saturating_mul(2 * STEPS)];
        let reach = reach.into_iter().fold(0, usize::saturating_add);
        within("tokens in reach of", "the window", reach as u64, (1 << 31) - 1)?;
        let tiles = dilation.min(longest).div_ceil(phases).max(1);
        let span = steps.saturating_mul(dilation);
        let stretch = span.saturating_add(longest);
        within("tokens in a stretch of", "the window", stretch as u64, (1 << 31) - 1)?;
        let (time, stretches, all) = match shape.layout() {
            Layout::Batch { time } | Layout::Padded { time } => {
                let stretches = time.div_ceil(span);
                (time, stretches, stretches.saturating_mul(shape.sequences()))
            }
            Layout::Packed => (0, 0, shape.tokens() / span + shape.sequences()),
        };
        let groups = all.saturating_mul(tiles).saturating_mul(columns);
        let sequences = shape.sequences();
        Ok(Tiles {
            time,
            sequences,
            stretches,
            span,
            tiles,
            dilation,
            phases,
            steps,
            listed,
            columns,
            groups,
        })
    }

    /// Tokens of a tile.
    pub(crate) fn outputs(&self) -> usize {
        self.phases * self.steps
    }

    /// Groups of threads.
    pub(crate) fn groups(&self) -> u64 {
        self.groups as u64
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
