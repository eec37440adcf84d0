//! How the kernels of attention count tokens: positions in 31 bits, ends that are open by a number.

use crate::Result;
use crate::gpu::within;
use crate::problem::{Alignment, AttentionProblem};

/// As far as any sequence goes.
const FAR: usize = 1 << 30;

/// How far a query sees on one side.
pub(crate) fn reach(side: Option<usize>) -> usize {
    side.map_or(FAR, |tokens| tokens.min(FAR))
}

/// An error where sequences are longer than the kernels count.
pub(crate) fn check_lengths(problem: &AttentionProblem) -> Result<()> {
    for (what, shape) in
        [("queries of a sequence of", problem.queries()), ("keys of a sequence of", problem.keys())]
    {
        within(what, "the call", shape.longest() as u64, FAR as u64 - 1)?;
    }
    Ok(())
}

/// An error where queries stand further among their keys than the kernels count. `furthest` is as
/// [`Sequences::furthest`](crate::Sequences) says of the queries.
pub(crate) fn check_past(problem: &AttentionProblem, furthest: (usize, usize)) -> Result<()> {
    match problem.alignment() {
        Alignment::End => Ok(()),
        Alignment::Past => within("tokens gone by of", "the queries", furthest.1 as u64, FAR as u64 - 1),
    }
}
