//! Plans need no device: that they hold to what the kernel asks of them is asserted where they are made, for all here.

use super::*;
use crate::cuda::tests::text;
use crate::{Sequences, Window};

/// Devices with little shared memory, and with much.
const DEVICES: [Limits; 3] = [Limits::L4, Limits::A100, Limits::H100];

fn problem(
    sequences: &Sequences,
    [channels, heads]: [usize; 2],
    window: Window,
    (dtype, parameters): (DType, DType),
) -> DynamicConvProblem {
    let conv = Convolution::new(sequences.shape(), channels, heads, window, dtype)
        .and_then(|conv| conv.with_parameters(parameters));
    DynamicConvProblem::generated(conv.unwrap()).unwrap()
}

fn launch(problem: &DynamicConvProblem, limits: &Limits) -> Option<Launch> {
    let fused = fused(problem, limits)?;
    Some(
        plan(&fused, problem, Default::default(), &DynamicPlaces::contiguous(problem), false, limits)
            .unwrap(),
    )
}

/// Tokens of a tile, and blocks that divide its heads.
fn tile(problem: &DynamicConvProblem, limits: &Limits) -> Option<[usize; 2]> {
    fused(problem, limits).map(|fused| [fused.shape.tiles.steps, fused.shape.tiles.columns])
}

#[test]
fn plans_hold_to_what_the_kernel_asks() {
    let mut entries = std::collections::BTreeSet::new();
    let layouts = [
        Sequences::batch(1, 1).unwrap(),
        Sequences::batch(8, 4096).unwrap(),
        Sequences::batch(100_000, 7).unwrap(),
        Sequences::padded(513, &[513, 0, 7]).unwrap(),
        Sequences::packed(&[0, 0, 1, 300]).unwrap(),
    ];
    for sequences in &layouts {
        for sizes in [[1, 1], [3, 3], [60, 3], [100, 5], [512, 8], [512, 512], [1024, 16], [4099, 1]] {
            for (width, dilation, left) in
                [(1, 1, 0), (3, 1, 1), (31, 1, 30), (33, 7, 5), (34, 2, 0), (65, 1, 9)]
            {
                let window = Window::new(width, dilation, left).unwrap();
                for dtype in DType::ALL {
                    for types in [(dtype, dtype), (dtype, DType::F32)] {
                        let own = problem(sequences, sizes, window, types);
                        let queries = [(7, dtype), (512, DType::F32)];
                        let others =
                            queries.map(|(channels, query)| own.with_query(channels, query).unwrap());
                        for problem in [own, others[0], others[1]] {
                            for limits in &DEVICES {
                                let Some(launch) = launch(&problem, limits) else { continue };
                                let entry = format!(".entry {}(", launch.entry);
                                assert!(text(launch.module).contains(&entry), "{launch:?}");
                                assert!(
                                    launch.grid > 0 && launch.shared <= limits.shared_memory,
                                    "{launch:?}"
                                );
                                entries.insert((launch.module.name, launch.entry));
                            }
                        }
                    }
                }
            }
        }
    }
    // Two kernels where the generator is of 16 bits, and one where it is of 32.
    assert_eq!(entries.len(), 2 * 2 + 3, "{entries:?}");
}

/// One launch where a tile holds enough tokens that W, once a tile, is little beside them.
#[test]
fn tiles_are_as_long_as_the_memory_allows() {
    let sequences = Sequences::batch(8, 4096).unwrap();
    let bf16 = (DType::BF16, DType::BF16);
    for (sizes, width, expected) in [
        ([256, 4], 31, [Some(64), Some(80), Some(64)]),
        ([512, 8], 3, [Some(48), Some(32), Some(64)]),
        ([512, 8], 31, [None, Some(64), Some(128)]),
        ([768, 12], 7, [None, Some(64), Some(64)]),
        ([1024, 16], 7, [None, Some(32), Some(64)]),
        ([1024, 16], 31, [None, None, Some(48)]),
        // Wider than any tile, and longer.
        ([4096, 64], 7, [None; 3]),
        ([512, 8], 66, [None; 3]),
    ] {
        let problem = problem(&sequences, sizes, Window::same(width).unwrap(), bf16);
        let got = DEVICES.map(|limits| tile(&problem, &limits));
        assert_eq!(got, expected.map(|steps| steps.map(|steps| [steps, 1])), "{sizes:?}, K = {width}");
    }
}

/// Where tokens are few, the heads of a tile are divided among multiprocessors that would idle: of 58, 108 and 132.
#[test]
fn a_decoder_has_a_head_a_block() {
    let sequences = Sequences::batch(8, 1).unwrap();
    for width in [3, 31] {
        let problem = problem(&sequences, [512, 8], Window::causal(width).unwrap(), (DType::F16, DType::F16));
        assert_eq!(
            DEVICES.map(|limits| tile(&problem, &limits)),
            [Some([16, 4]), Some([16, 8]), Some([16, 8])],
            "K = {width}"
        );
    }
}

/// An output's own token is a row of the tile where the window begins a whole number of taps before it.
#[test]
fn tokens_are_their_own_queries() {
    let sequences = Sequences::batch(4, 10_000).unwrap();
    for (left, expected) in [(0, Some(0)), (12, Some(4)), (13, None)] {
        let window = Window::new(7, 3, left).unwrap();
        let problem = problem(&sequences, [256, 4], window, (DType::F16, DType::F16));
        assert_eq!(fused(&problem, &Limits::H100).unwrap().shape.own_row, expected, "P = {left}");
    }
}
