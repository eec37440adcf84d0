//! Which tokens an output looks at, and how their weights are normalised.

use std::ops::Range;

use crate::{Error, Result};

/// The reach of a convolution along time: tap j of output t reads token t + j r - P of the same sequence.
///
/// K is the width, r the dilation and P the left padding. K may exceed the sequence; a tap that falls outside of it
/// reads zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    width: usize,
    dilation: usize,
    left: usize,
}

impl Window {
    /// A window of `width` taps, `dilation` tokens apart, the first of them `left` tokens before the output.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for a width or dilation of 0, [`Error::WindowLeft`] for `left` past (width - 1) dilation,
    /// [`Error::TooLarge`] where that product overflows.
    pub fn new(width: usize, dilation: usize, left: usize) -> Result<Self> {
        if width == 0 {
            return Err(Error::ZeroSize { what: "window width" });
        }
        if dilation == 0 {
            return Err(Error::ZeroSize { what: "window dilation" });
        }
        // Token positions are computed in i64: half of its range is room enough for every sum of two of them.
        let reach = (width - 1)
            .checked_mul(dilation)
            .filter(|&reach| reach <= isize::MAX as usize / 2)
            .ok_or_else(|| Error::TooLarge { what: "window", sizes: vec![width, dilation] })?;
        if left > reach {
            return Err(Error::WindowLeft { left, width, dilation, reach });
        }
        Ok(Window { width, dilation, left })
    }

    /// Sees the token itself and the `width - 1` before it: P = K - 1.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for a width of 0.
    pub fn causal(width: usize) -> Result<Self> {
        Window::new(width, 1, width.saturating_sub(1))
    }

    /// Centred: P = (K - 1) / 2; for an even width the shorter side is on the left.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for a width of 0.
    pub fn same(width: usize) -> Result<Self> {
        Window::new(width, 1, width.saturating_sub(1) / 2)
    }

    /// The same window with its taps `dilation` tokens apart. P keeps its whole number of taps, and what is left over,
    /// so a causal window stays causal and a centred one centred.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for a dilation of 0, [`Error::TooLarge`] where the reach overflows, [`Error::WindowLeft`]
    /// where what is left over does not fit.
    pub fn dilated(self, dilation: usize) -> Result<Self> {
        let steps = self.left / self.dilation;
        let left = steps
            .checked_mul(dilation)
            .and_then(|left| left.checked_add(self.left % self.dilation))
            .ok_or_else(|| Error::TooLarge { what: "window", sizes: vec![self.width, dilation] })?;
        Window::new(self.width, dilation, left)
    }

    /// Taps K.
    pub const fn width(self) -> usize {
        self.width
    }

    /// Tokens from one tap to the next, r.
    pub const fn dilation(self) -> usize {
        self.dilation
    }

    /// Tokens before the output that the first tap reads, P.
    pub const fn left(self) -> usize {
        self.left
    }

    /// Tokens from the first tap to the last, (K - 1) r: what a decoder must remember of each sequence.
    pub const fn reach(self) -> usize {
        (self.width - 1) * self.dilation
    }

    /// Tokens after the output that the last tap reads, (K - 1) r - P.
    pub const fn right(self) -> usize {
        self.reach() - self.left
    }

    /// Whether no tap reads a later token.
    pub const fn is_causal(self) -> bool {
        self.right() == 0
    }

    /// The token that tap `tap` of output `token` reads, t + j r - P, relative to the first token of the sequence:
    /// negative before it.
    pub const fn token(self, token: usize, tap: usize) -> isize {
        token as isize + (tap * self.dilation) as isize - self.left as isize
    }

    /// The taps of output `token` that read one of the tokens `-past .. length`: the others are out of range.
    pub fn taps_in_range(self, token: usize, length: usize, past: usize) -> Range<usize> {
        // Tap j is in range when -past <= token + j r - left < length.
        let first = self.left.saturating_sub(token + past).div_ceil(self.dilation);
        let end = (length + self.left).saturating_sub(token).div_ceil(self.dilation);
        let first = first.min(self.width);
        first..end.min(self.width).max(first)
    }

    /// The window with its taps in reverse order: the one along which gradients flow back, with P and the reach to the right
    /// exchanged.
    pub const fn mirrored(self) -> Window {
        Window { left: self.right(), ..self }
    }

    pub(crate) fn check_history(self) -> Result<()> {
        let Window { width, dilation, left } = self;
        if self.is_causal() {
            Ok(())
        } else {
            Err(Error::HistoryNotCausal { left, width, dilation, reach: self.reach() })
        }
    }
}

/// How the K weights of a window are normalised before anything is cut off or dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Normalize {
    /// Used as they are.
    None,
    /// Softmax over all K taps, in range or not (Wu et al. 2019, equation 4).
    #[default]
    Softmax,
    /// Softmax over the taps in range only, so that the weights in use always sum to one. Where no tap is in range
    /// the output is the bias.
    SoftmaxInRange,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_in_range_are_those_whose_token_is_in_range() {
        for width in 1..8 {
            for dilation in 1..4 {
                for left in 0..=(width - 1) * dilation {
                    let window = Window::new(width, dilation, left).unwrap();
                    for (length, past) in [(0, 0), (1, 0), (5, 0), (3, 2), (9, 30)] {
                        for token in 0..length {
                            let expected: Vec<usize> = (0..width)
                                .filter(|&tap| (-past..length as isize).contains(&window.token(token, tap)))
                                .collect();
                            let got: Vec<usize> =
                                window.taps_in_range(token, length, past as usize).collect();
                            assert_eq!(got, expected, "{window:?}, token {token} of {length}, past {past}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn named_windows() {
        let window = |w: Result<Window>| w.map(|w| (w.width(), w.dilation(), w.left(), w.right())).unwrap();
        assert_eq!(window(Window::causal(7)), (7, 1, 6, 0));
        assert_eq!(window(Window::same(7)), (7, 1, 3, 3));
        assert_eq!(window(Window::same(4)), (4, 1, 1, 2));
        assert_eq!(window(Window::same(4).unwrap().dilated(3)), (4, 3, 3, 6));
        assert_eq!(window(Window::causal(1)), (1, 1, 0, 0));
    }
}
