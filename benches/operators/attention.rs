use criterion::BenchmarkId;
use lightspan::problem::{AttentionProblem, Mask};
use lightspan::{DType, Result, Tensor, Window, ops};

use crate::support::{CHANNELS, Group, HEADS, WIDTH, measure, sequences, tokens};

/// What the convolutions stand in for. Local attention sees the tokens that a convolution of the same window sees.
///
/// Only attention itself: its three projections and the one after it are products of [C, C] like those of the group
/// `linear_by_rows`, where a light convolution has one or two, and a dynamic one its generator besides.
pub(crate) fn by_length(group: &mut Group<'_>, time: usize) -> Result<()> {
    let reach = Mask::from(Window::same(WIDTH)?);
    for (name, kind, mask) in [
        ("naive attention", ops::AttentionKind::Naive, Mask::FULL),
        ("fused attention", ops::AttentionKind::Fused, Mask::FULL),
        ("local attention", ops::AttentionKind::Fused, reach),
    ] {
        measure_attention(group, BenchmarkId::new(name, time), time, kind, mask)?;
    }
    Ok(())
}

fn measure_attention(
    group: &mut Group<'_>,
    id: BenchmarkId,
    time: usize,
    kind: ops::AttentionKind,
    mask: Mask,
) -> Result<()> {
    let dtype = DType::F32;
    let shape = sequences(time)?.shape();
    let problem = AttentionProblem::new(shape, shape, HEADS, CHANNELS / HEADS, dtype)?.with_mask(mask);
    let options = ops::AttentionOptions { kind, mask, ..Default::default() };
    let make = || -> Result<[Tensor; 4]> {
        Ok([tokens(time, dtype)?, tokens(time, dtype)?, tokens(time, dtype)?, tokens(time, dtype)?])
    };
    measure(group, id, problem.bytes(), make, |[q, k, v, y]| {
        ops::attention_into(y, q, k, v, HEADS, &options)
    });
    Ok(())
}
