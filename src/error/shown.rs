//! How messages show shapes and lists.

use std::fmt;

use crate::DType;

/// A shape in a message; `None` where any size will do.
#[derive(Clone, PartialEq, Eq)]
pub struct Dims(pub Vec<Option<usize>>);

impl<const N: usize> From<[usize; N]> for Dims {
    fn from(sizes: [usize; N]) -> Self {
        Dims(sizes.map(Some).to_vec())
    }
}

impl<const N: usize> From<[Option<usize>; N]> for Dims {
    fn from(sizes: [Option<usize>; N]) -> Self {
        Dims(sizes.to_vec())
    }
}

impl From<&[usize]> for Dims {
    fn from(sizes: &[usize]) -> Self {
        Dims(sizes.iter().copied().map(Some).collect())
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, size) in self.0.iter().enumerate() {
            f.write_str(if i > 0 { ", " } else { "" })?;
            match size {
                Some(size) => write!(f, "{size}")?,
                None => f.write_str("_")?,
            }
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Lists types as "f32", "f32 or f16".
pub(super) struct Or<'a>(pub(super) &'a [DType]);

impl fmt::Display for Or<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, dtype) in self.0.iter().enumerate() {
            f.write_str(if i > 0 { " or " } else { "" })?;
            dtype.fmt(f)?;
        }
        Ok(())
    }
}

/// Lists names as "a, b", and how many more there are.
pub(super) struct Few<'a>(pub(super) &'a [String]);

impl fmt::Display for Few<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        f.write_str(&self.0[..self.0.len().min(SHOWN)].join(", "))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
