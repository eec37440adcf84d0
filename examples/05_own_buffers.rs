//! 5. Your own buffers: no tensors, no copies, no allocations.
//!
//! Tensors are a convenience on top of the rooms, one for each kind of device. The CPU's, `lightspan::cpu`, works on
//! slices that you own. An operator is *prepared* once for a *problem*, which is all there is to
//! say about a call but its numbers, and then runs any number of times:
//!
//! - it says how much scratch memory it wants, and you provide it;
//! - tokens may lie inside of wider rows, a *token stride* apart, for inputs and outputs.
//!
//! Here the input is the first half of the rows of a gated linear unit: a projection has written `[tokens, 2 C]`, for
//! each token its values and then its gates. The values are gated in place, and the convolution reads them where they
//! are.
//!
//! Before: 04_decoding. Next: 06_span_conv.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use lightspan::cpu::{LightConv, LightConvArgs, Rows, RowsMut};
use lightspan::problem::{Convolution, LightConvProblem};
use lightspan::{DType, Device, Error, Sequences, Tensor, Window, ops};

const TOKENS: usize = 100;
const CHANNELS: usize = 48;
const HEADS: usize = 4;
const WIDTH: usize = 7;

fn main() -> lightspan::Result<()> {
    // Once: the problem, and an operator for it. Whatever makes no sense is an error here.
    let sequences = Sequences::packed(&[0, 64, TOKENS])?;
    let window = Window::same(WIDTH)?;
    let conv = Convolution::new(sequences.shape(), CHANNELS, HEADS, window, DType::F32)?;
    let operator = LightConv::new(LightConvProblem::new(conv));
    println!("a run takes {} operations", operator.problem().flops());
    println!("and must move {} bytes", operator.problem().bytes());

    // Yours: weight, values and gates, outputs, scratch.
    let weight = wave(HEADS * WIDTH);
    let mut rows = wave(TOKENS * 2 * CHANNELS);
    let mut y = vec![0.0; TOKENS * CHANNELS];
    let mut scratch = vec![0.0; operator.scratch_len()];
    println!("it wants {} numbers of scratch", scratch.len());

    // value * sigmoid(gate), in place.
    for row in rows.chunks_exact_mut(2 * CHANNELS) {
        let (values, gates) = row.split_at_mut(CHANNELS);
        for (value, gate) in values.iter_mut().zip(gates) {
            *value /= 1.0 + (-*gate).exp();
        }
    }

    run(&operator, &sequences, &weight, &rows, &mut y, &mut scratch)?;

    // The same with tensors, for which the values have to be copied out of their rows.
    let device = Device::cpu();
    let values: Vec<f32> =
        rows.chunks_exact(2 * CHANNELS).flat_map(|row| &row[..CHANNELS]).copied().collect();
    let values = Tensor::from_slice(&values, &[TOKENS, CHANNELS], &device)?;
    let weights = Tensor::from_slice(&weight, &[HEADS, WIDTH], &device)?;
    let options = ops::ConvOptions { sequences: Some(&sequences), ..Default::default() };
    assert_eq!(y, ops::light_conv(&values, &weights, window, &options)?.to_f32()?);
    println!("strided rows give what a copy of them gives");

    // Nothing is allocated in a run. A thread pool now and then allocates for itself, so this is shown on one thread.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    let allocations = pool.install(|| -> lightspan::Result<usize> {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..100 {
            run(&operator, &sequences, &weight, &rows, &mut y, &mut scratch)?;
        }
        Ok(ALLOCATIONS.load(Ordering::Relaxed) - before)
    })?;
    println!("{allocations} allocations in 100 runs");
    assert_eq!(allocations, 0);

    // What does not fit is an error, and y is as it was.
    let (before, expected) = (y.clone(), operator.scratch_len());
    let error = run(&operator, &sequences, &weight, &rows, &mut y, &mut scratch[1..]).unwrap_err();
    println!("one number short: {error}");
    assert_eq!(error, Error::Scratch { expected, got: expected - 1 });
    assert_eq!(y, before);
    Ok(())
}

/// One run: the tokens of x are 2 C numbers apart, and only the first C of each are read.
fn run(
    operator: &LightConv,
    sequences: &Sequences,
    weight: &[f32],
    values_and_gates: &[f32],
    y: &mut [f32],
    scratch: &mut [f32],
) -> lightspan::Result<()> {
    let args = LightConvArgs {
        sequences,
        x: Rows::strided(values_and_gates, 2 * CHANNELS),
        weight: weight.into(),
        bias: None,
        history: None,
        seed: None,
        y: RowsMut::contiguous(y),
    };
    operator.run(args, scratch)
}

/// Numbers to compute with.
fn wave(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 1.7).sin()).collect()
}

/// The allocator of the system, counting how often it is asked.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and every pointer came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}
