use crate::cpu::zeros;
use crate::{Error, Result};

/// How the sines and cosines of a table of positions lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sinusoids {
    /// All sines, then all cosines, of h = C / 2 (rounded down) frequencies: row p is sin(p f_0), .., sin(p f_(h-1)), cos(p f_0),
    /// .., cos(p f_(h-1)), with f_i = exp(-i ln 10000 / (h - 1)), and a last column of zeros where C is odd. This is
    /// `SinusoidalPositionalEmbedding` of fairseq and `get_timing_signal_1d` of tensor2tensor. Where h is 1, the one frequency
    /// is 1. (fairseq also makes zeros of the row of its padding, which no token stands at.)
    Halves,
    /// Sines and cosines in turn: row p is sin(p f_0), cos(p f_0), sin(p f_1), .., with f_i = 10000^(-2i / C); the last column
    /// is a sine where C is odd. This is section 3.5 of Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>.
    Interleaved,
}

/// A table of sinusoidal positions, `[count, C]`: what [`Positions`](crate::ops::Positions) take once they are a tensor. It is
/// computed in f64, each number rounded once.
///
/// ```
/// use lightspan::ops::{Sinusoids, sinusoidal_positions};
///
/// let table = sinusoidal_positions(2, 4, Sinusoids::Halves)?;
/// assert_eq!(table[..4], [0.0, 0.0, 1.0, 1.0]);
/// assert_eq!(table[4..], [1f64.sin(), 1e-4f64.sin(), 1f64.cos(), 1e-4f64.cos()].map(|x| x as f32));
/// # Ok::<(), lightspan::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::TooLarge`] where the sizes multiply to more than memory can address, [`Error::OutOfMemory`] where there is not so
/// much.
pub fn sinusoidal_positions(count: usize, channels: usize, form: Sinusoids) -> Result<Vec<f32>> {
    let too_large = || Error::TooLarge { what: "positions", sizes: vec![count, channels] };
    let mut table = zeros::<f32>("positions", count.checked_mul(channels).ok_or_else(too_large)?)?;
    let half = channels / 2;
    let angle = |position: usize, i: usize| {
        let exponent = match form {
            Sinusoids::Halves => i as f64 / half.saturating_sub(1).max(1) as f64,
            Sinusoids::Interleaved => 2.0 * i as f64 / channels as f64,
        };
        position as f64 * (-exponent * 10_000f64.ln()).exp()
    };
    for (position, row) in table.chunks_exact_mut(channels.max(1)).enumerate() {
        for (column, number) in row.iter_mut().enumerate() {
            *number = match form {
                Sinusoids::Halves if column < half => angle(position, column).sin(),
                Sinusoids::Halves if column < 2 * half => angle(position, column - half).cos(),
                Sinusoids::Halves => 0.0,
                Sinusoids::Interleaved if column % 2 == 0 => angle(position, column / 2).sin(),
                Sinusoids::Interleaved => angle(position, column / 2).cos(),
            } as f32;
        }
    }
    Ok(table)
}
