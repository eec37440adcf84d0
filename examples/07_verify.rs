//! 7. Verify: is an operator right on your device?
//!
//! Floating-point results are never exact, and a tolerance picked by hand is too wide for one input and too narrow for
//! another. `lightspan::reference` computes each operator in f64 by plain loops, and returns with each
//! value its *bound*: how far a backend that does its arithmetic in f32 and rounds once to store may be from it. The
//! bound follows from the numbers that go in, so one rule serves f32, f16 and bf16.
//!
//! Before: 06_span_conv. Next: 08_wgpu.

use lightspan::problem::{Convolution, DynamicConvProblem};
use lightspan::reference::{DynamicConvInputs, TapInputs, dynamic_conv, every_token};
use lightspan::{DType, Device, Sequences, Tensor, Window, ops};

const CHANNELS: usize = 32;
const HEADS: usize = 4;
const WIDTH: usize = 7;

fn main() -> lightspan::Result<()> {
    let device = Device::best();
    println!("on {device}:");
    for dtype in DType::ALL {
        verify(dtype, &device)?;
    }
    Ok(())
}

fn verify(dtype: DType, device: &Device) -> lightspan::Result<()> {
    let sequences = Sequences::padded(20, &[20, 1, 13])?;
    let window = Window::same(WIDTH)?;
    let x = wave(&sequences.shape().tensor(CHANNELS), dtype, device)?;
    let weight = wave(&[HEADS * WIDTH, CHANNELS], dtype, device)?;

    // What the device says.
    let options = ops::DynamicConvOptions { sequences: Some(&sequences), ..Default::default() };
    let y = ops::dynamic_conv(&x, &weight, HEADS, window, &options)?.to_f32()?;

    // What the reference says of the very numbers that the device read: those of the tensors, already rounded to
    // their type.
    let (x, weight) = (to_f64(&x)?, to_f64(&weight)?);
    let conv = Convolution::new(sequences.shape(), CHANNELS, HEADS, window, dtype)?;
    let problem = DynamicConvProblem::generated(conv)?;
    let taps = TapInputs::Generated { weight: &weight, weight_bias: None, query: None };
    let inputs = DynamicConvInputs { x: &x, taps, bias: None, history: None, seed: None };
    let expected = every_token(&sequences, CHANNELS, |sequence, t| {
        dynamic_conv(&problem, &sequences, inputs, (sequence, t))
    });

    // Every output within its bound. Those in the padding are exactly zero, with a bound of zero.
    assert_eq!(y.len(), expected.len());
    let (mut error, mut share) = (0.0f64, 0.0f64);
    for (&y, expected) in y.iter().zip(&expected) {
        let y = f64::from(y);
        assert!(expected.admits(y, dtype), "{y} is not {expected:?}");
        let distance = (y - expected.value).abs();
        error = error.max(distance);
        if expected.bound > 0.0 {
            share = share.max(distance / expected.bound);
        }
    }
    println!("{dtype}: {} outputs right, off by {error:.1e} at most, {share:.2} of the bound", y.len());

    // A check that nothing can fail says nothing. A generator with its first two taps swapped must not pass.
    let mut swapped = weight.clone();
    let (first, second) = swapped.split_at_mut(CHANNELS);
    first.swap_with_slice(&mut second[..CHANNELS]);
    let taps = TapInputs::Generated { weight: &swapped, weight_bias: None, query: None };
    let inputs = DynamicConvInputs { taps, ..inputs };
    let wrong = every_token(&sequences, CHANNELS, |sequence, t| {
        dynamic_conv(&problem, &sequences, inputs, (sequence, t))
    });
    let rejected = y.iter().zip(&wrong).filter(|(y, wrong)| !wrong.admits(f64::from(**y), dtype)).count();
    println!("{dtype}: with two taps swapped, {rejected} of them would be found wrong");
    assert!(rejected > 0);
    Ok(())
}

/// Numbers to compute with, rounded to `dtype`.
fn wave(shape: &[usize], dtype: DType, device: &Device) -> lightspan::Result<Tensor> {
    let len = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|i| (i as f32 * 1.7).sin()).collect();
    Tensor::from_f32(&values, shape, dtype, device)
}

fn to_f64(tensor: &Tensor) -> lightspan::Result<Vec<f64>> {
    Ok(tensor.to_f32()?.into_iter().map(f64::from).collect())
}
