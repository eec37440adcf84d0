use lightspan::problem::{AttentionProblem, Mask};
use lightspan::{DType, Result, Tensor, Window, ops};

use crate::support::{Group, Line, Size, WIDTH, measure};

/// What the convolutions stand in for. Local attention sees the tokens that a convolution of the same window sees.
///
/// Only attention itself: its three projections and the one after it are products of [C, C] like those of the group
/// `linear_by_rows`, where a light convolution has one or two, and a dynamic one its generator besides.
pub(crate) fn by_length(group: &mut Group<'_>, size: Size, dtype: DType) -> Result<()> {
    let reach = Mask::from(Window::same(WIDTH)?);
    for (name, kind, mask) in [
        ("naive attention", ops::AttentionKind::Naive, Mask::FULL),
        ("fused attention", ops::AttentionKind::Fused, Mask::FULL),
        ("local attention", ops::AttentionKind::Fused, reach),
    ] {
        measure_attention(group, Line::new(name, size.time), (size, dtype), kind, mask)?;
    }
    Ok(())
}

fn measure_attention(
    group: &mut Group<'_>,
    line: Line,
    (size, dtype): (Size, DType),
    kind: ops::AttentionKind,
    mask: Mask,
) -> Result<()> {
    let (shape, heads) = (size.sequences()?.shape(), size.heads);
    let problem = AttentionProblem::new(shape, shape, heads, size.channels / heads, dtype)?.with_mask(mask);
    let options = ops::AttentionOptions { kind, mask, ..Default::default() };
    let device = group.device().clone();
    let make = || -> Result<[Tensor; 4]> {
        let tokens = || size.tokens(dtype, &device);
        Ok([tokens()?, tokens()?, tokens()?, tokens()?])
    };
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        use crate::gpu::{measure, rows};
        use lightspan::wgpu::{Attention, AttentionArgs, DeviceSequences};
        let sequences = DeviceSequences::new(gpu, &size.sequences()?)?;
        let operator = Attention::new(gpu, problem, kind).map(|operator| {
            let scratch = operator.scratch_len(&sequences);
            (operator, [scratch, 0])
        });
        let what = (line, problem.bytes());
        return measure(group, gpu, what, operator, make, |operator, [q, k, v, y], [scratch, _]| {
            let (queries, keys) = (&sequences, &sequences);
            let args = AttentionArgs { queries, keys, q: rows(q), k: rows(k), v: rows(v), y: rows(y) };
            operator.bind(args, scratch)
        });
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        use crate::cuda::{Scratch, measure, rows, rows_mut};
        use lightspan::cuda::{Attention, AttentionArgs, DeviceSequences};
        let sequences = DeviceSequences::new(gpu, &size.sequences()?)?;
        let operator = Attention::new(gpu, problem, kind);
        let len = operator.as_ref().map_or(0, |operator| operator.scratch_len(&sequences));
        let mut scratch = Scratch::new(&device, len);
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, [q, k, v, y]| {
            let (queries, keys) = (&sequences, &sequences);
            let args = AttentionArgs { queries, keys, q: rows(q), k: rows(k), v: rows(v), y: rows_mut(y) };
            operator.launch(args, scratch.get()?)
        });
    }
    measure(group, line, problem.bytes(), make, |[q, k, v, y]| {
        ops::attention_into(y, &*q, &*k, &*v, heads, &options)
    });
    Ok(())
}
