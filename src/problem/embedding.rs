#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::Layout;
use crate::problem::{addressable, count, nonzero, same_or_f32};
use crate::{DType, Error, Result, SequenceShape, Sequences};

/// The rows of tables that tokens stand for: y\[t\] = scale table\[token\[t\]\] + positions\[first + p(t)\] + types\[type\[t\]\].
///
/// The table is `[V, C]`. A table of positions `[P, C]` needs sequences: p(t) is where token t stands in its sequence, plus
/// the tokens of that sequence that have gone by. A table of types `[T, C]` has an id of its own for each token. Everything is
/// formed in f32 and rounded once; where the scale is 1 and nothing is added, rows are only moved. A row outside of its
/// sequence is zero, whatever its ids are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EmbeddingProblem {
    tokens: usize,
    sequences: Option<SequenceShape>,
    vocabulary: usize,
    channels: usize,
    /// Bits of the f32, so that the problem can be a key.
    scale: u32,
    /// Rows of the table, and that of the first token.
    positions: Option<(usize, usize)>,
    types: Option<usize>,
    dtype: DType,
    parameters: DType,
}

impl EmbeddingProblem {
    /// `tokens` rows (any number, 0 included) of a table of `vocabulary` rows of `channels`, everything of type `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for no rows or no channels of the table, [`Error::TooLarge`] where a tensor could not be addressed.
    pub fn new(tokens: usize, vocabulary: usize, channels: usize, dtype: DType) -> Result<Self> {
        nonzero("vocabulary", vocabulary)?;
        nonzero("channels", channels)?;
        addressable("y", &[tokens, channels])?;
        addressable("table", &[vocabulary, channels])?;
        let scale = 1f32.to_bits();
        let (sequences, positions, types) = (None, None, None);
        let parameters = dtype;
        Ok(EmbeddingProblem {
            tokens,
            sequences,
            vocabulary,
            channels,
            scale,
            positions,
            types,
            dtype,
            parameters,
        })
    }

    /// The same of the tokens of sequences, which may have padding and positions.
    ///
    /// # Errors
    ///
    /// As [`EmbeddingProblem::new`].
    pub fn of_sequences(
        sequences: SequenceShape,
        vocabulary: usize,
        channels: usize,
        dtype: DType,
    ) -> Result<Self> {
        let problem = EmbeddingProblem::new(sequences.tokens(), vocabulary, channels, dtype)?;
        Ok(EmbeddingProblem { sequences: Some(sequences), ..problem })
    }

    /// With another factor for the rows of the table.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] unless it is finite.
    pub fn with_scale(mut self, scale: f32) -> Result<Self> {
        if !scale.is_finite() {
            return Err(Error::NotFinite { what: "scale", got: scale });
        }
        self.scale = scale.to_bits();
        Ok(self)
    }

    /// With a table of `rows` positions, row `first` of which belongs to the first token of a sequence.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] without sequences, [`Error::ZeroSize`] for no rows, [`Error::TooLarge`] for a table that could not
    /// be addressed, or a `first` that is no row of any table.
    pub fn with_positions(mut self, rows: usize, first: usize) -> Result<Self> {
        if self.sequences.is_none() {
            return Err(Error::Missing { tensor: "sequences" });
        }
        nonzero("rows of positions", rows)?;
        addressable("positions", &[rows, self.channels])?;
        addressable("first position", &[first])?;
        self.positions = Some((rows, first));
        Ok(self)
    }

    /// With a table of `rows` types.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for no rows, [`Error::TooLarge`] for a table that could not be addressed.
    pub fn with_types(mut self, rows: usize) -> Result<Self> {
        nonzero("rows of types", rows)?;
        addressable("types", &[rows, self.channels])?;
        self.types = Some(rows);
        Ok(self)
    }

    /// With tables of type `dtype`: that of y, or f32.
    ///
    /// # Errors
    ///
    /// [`Error::DType`] for any other.
    pub fn with_parameters(mut self, dtype: DType) -> Result<Self> {
        same_or_f32("parameters", self.dtype, dtype)?;
        self.parameters = dtype;
        Ok(self)
    }

    /// Rows of y.
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// The shape of the sequences, where tokens are in any.
    pub const fn sequences(&self) -> Option<SequenceShape> {
        self.sequences
    }

    /// Rows of the table, V.
    pub const fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Numbers of a row, C.
    pub const fn channels(&self) -> usize {
        self.channels
    }

    /// What rows of the table are multiplied by.
    pub const fn scale(&self) -> f32 {
        f32::from_bits(self.scale)
    }

    /// Rows of the table of positions, P, where there is one.
    pub const fn positions(&self) -> Option<usize> {
        match self.positions {
            Some((rows, _)) => Some(rows),
            None => None,
        }
    }

    /// The row of positions that belongs to the first token of a sequence; 0 where there are none.
    pub const fn first(&self) -> usize {
        match self.positions {
            Some((_, first)) => first,
            None => 0,
        }
    }

    /// Rows of the table of types, where there is one.
    pub const fn types(&self) -> Option<usize> {
        self.types
    }

    /// Type of y.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Type of the tables.
    pub const fn parameters(&self) -> DType {
        self.parameters
    }

    /// Whether rows are only moved: nothing is multiplied, and nothing added.
    pub(crate) fn is_moved(&self) -> bool {
        self.scale() == 1.0 && self.positions.is_none() && self.types.is_none()
    }

    /// The layout of the sequences, where rows need to know theirs: there may be padding, or there are positions.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn grouping(&self) -> Option<Layout> {
        let layout = self.sequences.map(SequenceShape::layout);
        layout.filter(|layout| matches!(layout, Layout::Padded { .. }) || self.positions.is_some())
    }

    /// An error where ids below `bound` may be past the table.
    pub(crate) fn check_tokens(&self, bound: u64) -> Result<()> {
        check_ids("tokens", bound, "table", self.vocabulary)
    }

    /// An error where ids of types, below `bound`, may be past their table.
    pub(crate) fn check_types(&self, bound: u64) -> Result<()> {
        self.types.map_or(Ok(()), |rows| check_ids("type ids", bound, "types", rows))
    }

    /// An error where a token of these sequences stands past the table of positions.
    pub(crate) fn check_positions(&self, sequences: &Sequences) -> Result<()> {
        let Some((rows, first)) = self.positions else { return Ok(()) };
        for (index, sequence) in sequences.as_slice().iter().enumerate().filter(|(_, s)| s.length > 0) {
            let position = first.saturating_add(sequence.past).saturating_add(sequence.length - 1);
            if position >= rows {
                return Err(Error::PositionPastTable { sequence: index, position, rows });
            }
        }
        Ok(())
    }

    /// Operations: for each number of y one to scale it (unless the scale is 1), and one for each other table.
    pub fn flops(&self) -> u64 {
        let scaled = usize::from(self.scale() != 1.0);
        let added = usize::from(self.positions.is_some()) + usize::from(self.types.is_some());
        count(&[scaled + added, self.tokens, self.channels])
    }

    /// Bytes that must move: the ids, y, and of each table as many rows as tokens can stand for, once each. How many of them
    /// are the same, and how many are in padding, are data: this counts all of a table, or a row for each token where those
    /// are fewer.
    pub fn bytes(&self) -> u64 {
        let kinds = 1 + usize::from(self.types.is_some());
        let ids = count(&[kinds, self.tokens, size_of::<u32>()]);
        let used = |rows: usize, most: usize| rows.min(most);
        let longest = self.sequences.map_or(0, SequenceShape::longest);
        let rows = used(self.vocabulary, self.tokens)
            + self.types.map_or(0, |rows| used(rows, self.tokens))
            + self.positions.map_or(0, |(rows, _)| used(rows, longest.min(self.tokens)));
        ids.saturating_add(count(&[self.tokens, self.channels, self.dtype.size()])).saturating_add(count(&[
            rows,
            self.channels,
            self.parameters.size(),
        ]))
    }
}

fn check_ids(ids: &'static str, bound: u64, table: &'static str, rows: usize) -> Result<()> {
    if bound > rows as u64 {
        return Err(Error::IdPastTable { ids, bound, table, rows });
    }
    Ok(())
}
