//! 1. Light convolution: one filter slides over the tokens.
//!
//! Self-attention mixes every token with every other. A convolution mixes a token with its neighbours only, and a light
//! convolution does it with very few weights: the channels are divided into *heads*, and all channels of a head share
//! one *filter* of K *taps*. A *window* says which neighbours the taps read, and the taps pass through a softmax, so
//! that each output is a weighted mean of what it sees.
//!
//! ```text
//! y[b, t, c] = sum_j softmax(weight)[h(c), j] x[b, t + j - P, c]          h(c) = c / (C / H)
//! ```
//!
//! Next: 02_dynamic_conv, where every token makes a filter of its own.

use lightspan::{Device, Normalize, Tensor, Window, ops};

fn main() -> lightspan::Result<()> {
    // A tensor is numbers on a device and a shape. Tokens are [batch, time, channels]: here one sequence of five
    // tokens with two channels, the second ten times the first.
    let device = Device::cpu();
    let x = [1.0f32, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0, 5.0, 50.0];
    let x = Tensor::from_slice(&x, &[1, 5, 2], &device)?;

    // The weight is [heads, taps]. One head: both channels have the same filter. Equal weights are equal after the
    // softmax too, whatever they are, so this is a mean of three tokens.
    let weight = Tensor::from_slice(&[0.7f32, 0.7, 0.7], &[1, 3], &device)?;

    // A centred window reads the token before, the token itself and the one after: P = 1.
    let centred = Window::same(3)?;
    let y = ops::light_conv(&x, &weight, centred, &Default::default())?;
    println!("mean of three, centred: {:.2?}", channel(&y, 0)?);
    assert_close(&channel(&y, 0)?, &[1.0, 2.0, 3.0, 4.0, 3.0]);
    assert_close(&channel(&y, 1)?, &[10.0, 20.0, 30.0, 40.0, 30.0]);

    // The first and last outputs are not means: a tap outside of the sequence reads zero, and the softmax came before
    // it was cut off. To have the weights in use sum to one everywhere, normalise over the taps in range.
    let options = ops::ConvOptions { normalize: Normalize::SoftmaxInRange, ..Default::default() };
    let y = ops::light_conv(&x, &weight, centred, &options)?;
    println!("the same, in range:     {:.2?}", channel(&y, 0)?);
    assert_close(&channel(&y, 0)?, &[1.5, 2.0, 3.0, 4.0, 4.5]);

    // A causal window reads the token itself and those before it, never the future: P = K - 1. It is what a decoder
    // needs.
    let y = ops::light_conv(&x, &weight, Window::causal(3)?, &options)?;
    println!("causal, in range:       {:.2?}", channel(&y, 0)?);
    assert_close(&channel(&y, 0)?, &[1.0, 1.5, 2.0, 3.0, 4.0]);

    // Two heads: each channel has a filter of its own now. A tap far above the others wins the softmax, so that the
    // first head copies the token before and the second the token after.
    let weight = Tensor::from_slice(&[99.0f32, 0.0, 0.0, 0.0, 0.0, 99.0], &[2, 3], &device)?;
    let y = ops::light_conv(&x, &weight, centred, &Default::default())?;
    println!("two heads:              {:.2?} and {:.2?}", channel(&y, 0)?, channel(&y, 1)?);
    assert_close(&channel(&y, 0)?, &[0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_close(&channel(&y, 1)?, &[20.0, 30.0, 40.0, 50.0, 0.0]);

    // What does not fit is an error that says so, before anything is computed.
    let three_heads = Tensor::zeros(&[3, 3], x.dtype(), &device)?;
    let error = ops::light_conv(&x, &three_heads, centred, &Default::default()).unwrap_err();
    println!("three heads:            {error}");
    assert_eq!(error, lightspan::Error::Heads { heads: 3, channels: 2 });
    Ok(())
}

/// One channel of every token.
fn channel(tensor: &Tensor, channel: usize) -> lightspan::Result<Vec<f32>> {
    let channels = tensor.shape()[2];
    Ok(tensor.to_f32()?.into_iter().skip(channel).step_by(channels).collect())
}

fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-4, "{got} is not {expected}");
    }
}
