//! Every drawn backward call on memory of one's own: rows with gaps, parameters that are longer than needed, and gradients
//! that hold NaN. Each gradient is within its bound, and what is not part of it stays as it is.

mod convolutions;
mod products;

use lightspan::Result;
use proptest::prelude::*;

use crate::own_buffers::equal_tensors::Slack;
use crate::support::{Expected, Memory};

fn slack() -> impl Strategy<Value = Slack> {
    (0usize..4, 0usize..4).prop_map(|(gap, extra)| Slack { gap, extra })
}

/// Fails unless `run` writes the gradients that are wanted. Each has rows of a width, or is a parameter's.
fn check<const N: usize>(
    slack: Slack,
    expected: Vec<Expected>,
    widths: [Option<usize>; N],
    run: impl FnOnce([Option<&mut Memory>; N]) -> Result<()>,
) -> Result<(), TestCaseError> {
    assert_eq!(expected.len(), N);
    let size = |i: usize| {
        let len = expected[i].estimates.len();
        widths[i].map_or(len + slack.extra, |width| len / width * (width + slack.gap))
    };
    let mut memories: [Option<Memory>; N] = std::array::from_fn(|i| {
        expected[i].wanted.then(|| Memory::new(vec![f32::NAN; size(i)], expected[i].dtype))
    });
    run(memories.each_mut().map(Option::as_mut)).unwrap();
    for ((expected, memory), width) in expected.iter().zip(&memories).zip(widths) {
        let Some(got) = memory.as_ref().map(Memory::to_f32) else { continue };
        let (name, len) = (expected.name, expected.estimates.len());
        let (width, stride) = width.map_or((len, len + slack.extra), |width| (width, width + slack.gap));
        for (i, row) in got.chunks(stride).enumerate() {
            for (c, (estimate, &got)) in expected.estimates[i * width..].iter().zip(&row[..width]).enumerate()
            {
                let near = estimate.admits(got.into(), expected.dtype);
                prop_assert!(near, "{}[{}, {}] is {}, expected {:?}", name, i, c, got, estimate);
            }
            prop_assert!(row[width..].iter().all(|x| x.is_nan()), "the gap after row {} of {}", i, name);
        }
    }
    Ok(())
}
