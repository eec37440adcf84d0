//! What flows back through a matrix product y = x W^T + bias: to its input, its weight and its bias.
//!
//! Work is cut by the sizes alone, and partial sums are added in the order of their rows, so that the numbers do not
//! depend on the threads.

mod bias;
mod input;
mod weight;

use std::ops::Range;

use crate::cpu::rows::{Sink, Source};
use crate::cpu::{ElementsMut, RowsMut};
use crate::{DType, Error, Result, Sequences};

pub(crate) use bias::BiasGradient;
pub(crate) use input::InputGradient;
pub(crate) use weight::WeightGradient;

/// A matrix that is read in tiles.
#[derive(Clone, Copy)]
pub(crate) enum Matrix<'a> {
    /// Rows as they are.
    Rows(Source<'a>),
    /// Rows of tokens, whose padding is zero, whatever it holds.
    Tokens(Source<'a>, &'a Sequences),
    /// Rows and columns that are made when they are needed, row after row.
    Made(&'a Make<'a>),
}

/// Writes rows and columns of a matrix.
pub(crate) type Make<'a> = dyn Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync + 'a;

impl<'a> Matrix<'a> {
    /// A tile as f32: where it lies, or in `copy`, which has room for it; and the stride of its rows.
    fn stage<'b>(&self, rows: Range<usize>, columns: Range<usize>, copy: &'b mut [f32]) -> (&'b [f32], usize)
    where
        'a: 'b,
    {
        let width = columns.len();
        match self {
            Matrix::Rows(source) => source.stage(rows, columns.start, width, copy),
            Matrix::Tokens(source, sequences) => {
                if sequences.pieces(rows.clone()).all(|piece| piece.padding.is_empty()) {
                    return source.stage(rows, columns.start, width, copy);
                }
                each_token(sequences, rows, width, copy, |row, out| source.load(row, columns.start, out));
                (copy, width)
            }
            Matrix::Made(make) => {
                let copy = &mut copy[..rows.len() * width];
                make(rows, columns, copy);
                (copy, width)
            }
        }
    }
}

/// Calls `body` with each token among `rows` and its `width` numbers of `out`, which holds the rows one after another;
/// those of padding become zero.
pub(crate) fn each_token(
    sequences: &Sequences,
    rows: Range<usize>,
    width: usize,
    out: &mut [f32],
    mut body: impl FnMut(usize, &mut [f32]),
) {
    for piece in sequences.pieces(rows.clone()) {
        for row in piece.tokens.map(|t| piece.sequence.first + t) {
            body(row, &mut out[(row - rows.start) * width..][..width]);
        }
        for row in piece.padding {
            out[(row - rows.start) * width..][..width].fill(0.0);
        }
    }
}

/// The checked rows of a gradient, which is given exactly where it is wanted.
pub(crate) fn check_wanted<'a>(
    tensor: &'static str,
    given: Option<RowsMut<'a>>,
    wanted: bool,
    dtype: DType,
    rows: usize,
    columns: usize,
) -> Result<Option<Sink<'a>>> {
    match given {
        Some(given) if wanted => given.check(tensor, dtype, rows, columns).map(Some),
        Some(_) => Err(Error::Surplus { tensor }),
        None if wanted => Err(Error::Missing { tensor }),
        None => Ok(None),
    }
}

/// The same for the gradient of a parameter, whose elements lie one after another.
pub(crate) fn check_parameter<'a>(
    tensor: &'static str,
    given: Option<ElementsMut<'a>>,
    wanted: bool,
    dtype: DType,
    rows: usize,
    columns: usize,
) -> Result<Option<Sink<'a>>> {
    check_wanted(tensor, given.map(RowsMut::contiguous), wanted, dtype, rows, columns)
}
