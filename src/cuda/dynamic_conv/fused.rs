//! Generation, normalisation and convolution in one launch.

use crate::cuda::dynamic_conv::DynamicPlaces;
use crate::cuda::limits::Limits;
use crate::cuda::plan::Launch;
use crate::cuda::traffic::Traffic;
use crate::problem::DynamicConvProblem;
use crate::{Result, Sequences};

/// The launch, if this form is for such a problem: that depends on the problem and the device alone, not on how tensors
/// lie, since a call's scratch memory depends on it.
pub(crate) fn plan(
    _problem: &DynamicConvProblem,
    _places: &DynamicPlaces,
    _listed: bool,
    _limits: &Limits,
) -> Result<Option<Launch>> {
    Ok(None)
}

/// What the call reads and writes, if this form is for such a problem.
pub(crate) fn traffic(
    _problem: &DynamicConvProblem,
    _sequences: &Sequences,
    _limits: &Limits,
) -> Result<Option<Traffic>> {
    Ok(None)
}
