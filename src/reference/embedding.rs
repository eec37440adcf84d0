use crate::problem::EmbeddingProblem;
use crate::reference::Estimate;

/// What [`embedding`] reads, each value exactly as the backend gets it.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingInputs<'a> {
    /// An id for each row of y.
    pub tokens: &'a [u32],
    /// `[V, C]`.
    pub table: &'a [f64],
    /// `[P, C]`, where the problem has one.
    pub positions: Option<&'a [f64]>,
    /// An id for each row of y, where the problem has types.
    pub type_ids: Option<&'a [u32]>,
    /// `[T, C]`, where the problem has one.
    pub types: Option<&'a [f64]>,
}

/// scale table\[token\[row\]\] + positions\[first + position\] + types\[type\[row\]\] for one row of y, whose token stands at
/// `position` of its sequence, counted with those that have gone by. Rows that are only moved are exact, but for their
/// rounding.
pub fn embedding(
    problem: &EmbeddingProblem,
    inputs: EmbeddingInputs<'_>,
    row: usize,
    position: usize,
) -> Vec<Estimate> {
    let channels = problem.channels();
    let row_of = |table: &[f64], id: usize| table[id * channels..][..channels].to_vec();
    let tokens = row_of(inputs.table, inputs.tokens[row] as usize);
    let positions = inputs.positions.map(|table| row_of(table, problem.first() + position));
    let types = inputs.types.zip(inputs.type_ids).map(|(table, ids)| row_of(table, ids[row] as usize));
    let scale = f64::from(problem.scale());
    (0..channels)
        .map(|c| {
            if problem.is_moved() {
                return Estimate::exact(problem.dtype().round(tokens[c]));
            }
            let added = [&positions, &types].into_iter().flatten().map(|row| (Estimate::exact(1.0), row[c]));
            let terms = std::iter::once((Estimate::exact(scale), tokens[c])).chain(added);
            Estimate::sum(0.0, terms).stored(problem.dtype())
        })
        .collect()
}
