//! Handwritten digits: the 1797 images of 8 by 8 that scikit-learn ships (Alpaydin and Kaynak 1998).

use anyhow::{Context, Result, ensure};

const FILE: &str = include_str!("../../data/digits.csv");
/// Pixels of a row and of a column.
const SIDE: usize = 8;
/// Pixels of a row and of a column of a patch.
const PATCH: usize = 2;

/// Patches of an image.
pub const TOKENS: usize = (SIDE / PATCH) * (SIDE / PATCH);
/// Pixels of a patch.
pub const CHANNELS: usize = PATCH * PATCH;
/// Which digits there are.
pub const CLASSES: usize = 10;

/// An image and what it shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Digit {
    /// `[TOKENS, CHANNELS]`: patches from left to right and from above, with ink from 0 to 1.
    pub patches: Vec<f32>,
    /// The digit.
    pub label: u32,
}

/// All of them, in the order of the data set.
///
/// # Errors
///
/// For a file that is no longer what it was.
pub fn digits() -> Result<Vec<Digit>> {
    FILE.lines().enumerate().map(|(i, line)| digit(line).with_context(|| format!("digit {i}"))).collect()
}

fn digit(line: &str) -> Result<Digit> {
    let numbers: Vec<u32> = line.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let (&label, pixels) = numbers.split_last().context("an empty line")?;
    ensure!(pixels.len() == SIDE * SIDE && pixels.iter().all(|&pixel| pixel <= 16), "not 64 pixels up to 16");
    ensure!((label as usize) < CLASSES, "{label} is no digit");
    let patches = (0..TOKENS * CHANNELS).map(|i| {
        let (token, channel) = (i / CHANNELS, i % CHANNELS);
        let row = token / (SIDE / PATCH) * PATCH + channel / PATCH;
        let column = token % (SIDE / PATCH) * PATCH + channel % PATCH;
        pixels[row * SIDE + column] as f32 / 16.0
    });
    Ok(Digit { patches: patches.collect(), label })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_there() {
        let digits = digits().unwrap();
        assert_eq!(digits.len(), 1797);
        // As scikit-learn describes its data: the first is a 0 whose first row begins 0, 0, 5, 13.
        assert_eq!(digits[0].label, 0);
        assert_eq!(digits[0].patches[4], 5.0 / 16.0);
        assert_eq!(digits[0].patches[5], 13.0 / 16.0);
        let of = |label| digits.iter().filter(|digit| digit.label == label).count();
        assert_eq!((0..10).map(of).collect::<Vec<_>>(), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    }

    #[test]
    fn broken_lines_are_errors() {
        assert!(digit("").is_err() && digit("1,2,3").is_err());
        let line = |pixel, label| format!("{},{pixel},{label}", vec!["0"; 63].join(","));
        assert!(digit(&line(16, 9)).is_ok());
        assert!(digit(&line(17, 9)).is_err() && digit(&line(16, 10)).is_err());
    }
}
