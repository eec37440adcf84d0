use criterion::{BenchmarkId, Criterion};
use lightspan::problem::{AttentionProblem, Mask};
use lightspan::{DType, Result, Tensor, Window, ops};

use crate::support::{
    CHANNELS, Group, HEADS, LENGTHS, TOKENS, WIDTH, measure, measure_copy, sequences, tokens,
};

/// What the convolutions stand in for. `local` sees the tokens that a convolution of the same window sees.
///
/// Only attention itself: its three projections and the one after it are products of [C, C] like those of the group
/// `linear_by_rows`, where a light convolution has one or two, and a dynamic one its generator besides.
///
/// The scores of `naive` at the greatest lengths (512 MiB a sequence of 4096) are more than a device keeps from one call
/// to the next, so there it pays for new memory each time, as it would in any framework.
pub(crate) fn bench(criterion: &mut Criterion) -> Result<()> {
    let reach = Mask::from(Window::same(WIDTH)?);
    let mut group = criterion.benchmark_group("attention_by_length");
    for time in LENGTHS {
        measure_copy(&mut group, time, TOKENS);
        for (name, kind, mask) in [
            ("naive", ops::AttentionKind::Naive, Mask::FULL),
            ("fused", ops::AttentionKind::Fused, Mask::FULL),
            ("local", ops::AttentionKind::Fused, reach),
        ] {
            measure_attention(&mut group, BenchmarkId::new(name, time), time, kind, mask)?;
        }
    }
    group.finish();
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
    let problem = AttentionProblem::new(shape, shape, HEADS, CHANNELS / HEADS, dtype)?.mask(mask);
    let options = ops::AttentionOptions { kind, mask, ..Default::default() };
    let make = || -> Result<[Tensor; 4]> {
        Ok([tokens(time, dtype)?, tokens(time, dtype)?, tokens(time, dtype)?, tokens(time, dtype)?])
    };
    measure(group, id, problem.bytes(), make, |[q, k, v, y]| {
        ops::attention_into(y, q, k, v, HEADS, &options)
    });
    Ok(())
}
