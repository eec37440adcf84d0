//! The gradient of logits: by products of matrices where these are for it, by multiply-adds elsewhere.

mod band;
mod multiply_add;

use crate::cuda::dynamic_conv::plan::Logits;
use crate::cuda::limits::Limits;
use crate::cuda::plan::{DropoutParams, Launch, Place};
use crate::cuda::traffic::Traffic;
use crate::problem::Convolution;
use crate::{DType, Result, Sequences};

/// Where the tokens and logits lie, and their gradients.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogitPlaces {
    pub(super) x: Place,
    pub(super) dy: Place,
    pub(super) logits: Logits,
    pub(super) gradients: Logits,
}

/// The launch, which takes the same in either form.
pub(super) fn plan(
    conv: &Convolution,
    dropout: DropoutParams,
    places: &LogitPlaces,
    listed: bool,
    limits: &Limits,
) -> Result<Launch> {
    match band::plan(conv, dropout, places, listed, limits)? {
        Some(launch) => Ok(launch),
        None => multiply_add::plan(conv, dropout, places, listed, limits),
    }
}

/// What it reads and writes, with logits and gradients of these types that lie without gaps.
pub(super) fn traffic(
    conv: &Convolution,
    types: [DType; 2],
    sequences: &Sequences,
    limits: &Limits,
) -> Result<Traffic> {
    match band::traffic(conv, types, sequences, limits)? {
        Some(traffic) => Ok(traffic),
        None => multiply_add::traffic(conv, types, sequences, limits),
    }
}
