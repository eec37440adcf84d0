use crate::problem::{addressable, count, nonzero};
use crate::{DType, Error, Result};

/// The k largest numbers of each row of x `[rows, V]`, and where they stand: values (in f32) and tokens, both `[rows, k]`.
///
/// Values fall, and of equal ones (0 and -0 are equal) the one with the lower index comes first. NaN counts as larger than
/// every number, so that it is seen; several come in the order of their indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopKProblem {
    rows: usize,
    vocabulary: usize,
    k: usize,
    dtype: DType,
    values: bool,
    log_softmax: bool,
}

impl TopKProblem {
    /// The `k` largest of each of `rows` rows (any number, 0 included) of `vocabulary` numbers.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] where the vocabulary or k is, [`Error::TopK`] for a k past the vocabulary, [`Error::TooLarge`]
    /// where a tensor could not be addressed, or an index is no u32.
    pub fn new(rows: usize, vocabulary: usize, k: usize, dtype: DType) -> Result<Self> {
        nonzero("vocabulary", vocabulary)?;
        nonzero("k", k)?;
        if k > vocabulary {
            return Err(Error::TopK { k, vocabulary });
        }
        addressable("x", &[rows, vocabulary])?;
        if u32::try_from(vocabulary - 1).is_err() {
            return Err(Error::TooLarge { what: "vocabulary", sizes: vec![vocabulary] });
        }
        Ok(TopKProblem { rows, vocabulary, k, dtype, values: true, log_softmax: false })
    }

    /// With values, or with tokens alone.
    pub const fn with_values(mut self, values: bool) -> Self {
        self.values = values;
        self
    }

    /// With the logarithms of a softmax over the row as values: x - m - ln(sum exp(x - m)), m the largest of the row, formed
    /// in f32. In a row that has a NaN or +infinity, or nothing but -infinity, all of them are NaN.
    pub const fn with_log_softmax(mut self, log_softmax: bool) -> Self {
        self.log_softmax = log_softmax;
        self
    }

    /// Rows of x, values and tokens.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers of a row, V.
    pub const fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// How many of them are wanted.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// Type of x.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether values are wanted too.
    pub const fn has_values(&self) -> bool {
        self.values
    }

    /// Whether values are those of a logarithmic softmax. Where there are no values, nothing of it is computed.
    pub const fn has_log_softmax(&self) -> bool {
        self.log_softmax && self.values
    }

    /// Operations: a comparison for each number, and three more where there is a softmax (the difference, its exponential, the
    /// sum).
    pub fn flops(&self) -> u64 {
        let each = if self.has_log_softmax() { 4 } else { 1 };
        count(&[each, self.rows, self.vocabulary])
    }

    /// Bytes that must move: x, values and tokens, once each.
    pub fn bytes(&self) -> u64 {
        let each = size_of::<u32>() * (1 + usize::from(self.values));
        count(&[self.rows, self.vocabulary, self.dtype.size()])
            .saturating_add(count(&[each, self.rows, self.k]))
    }
}
