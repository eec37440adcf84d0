//! 2. Dynamic convolution: every token generates the filter that it is convolved with.
//!
//! A light convolution weighs its neighbours the same way everywhere. A dynamic one lets each token decide: a linear
//! map W, the *generator*, turns the token into K *logits* for each head, and their softmax is the filter of that token.
//!
//! ```text
//! logits[b, t, h, j] = (W x[b, t])[h K + j]
//! y[b, t, c] = sum_j softmax(logits)[b, t, h(c), j] x[b, t + j - P, c]
//! ```
//!
//! Unlike attention's scores, the logits depend on the token alone and not on the neighbours that they weigh: that is
//! why the price grows with the number of tokens, and not with its square.
//!
//! Before: 01_light_conv. Next: 03_padding_and_packing.

use lightspan::{DType, Device, Tensor, Window, ops};

const BATCH: usize = 2;
const TIME: usize = 6;
const CHANNELS: usize = 8;
const HEADS: usize = 2;
const WIDTH: usize = 3;

fn main() -> lightspan::Result<()> {
    let device = Device::cpu();
    let window = Window::causal(WIDTH)?;
    let x = wave(&[BATCH, TIME, CHANNELS], &device)?;
    // The generator W is [H K, C].
    let weight = wave(&[HEADS * WIDTH, CHANNELS], &device)?;

    // One operator generates, normalises and convolves. The logits of all tokens are never in memory at once.
    let y = ops::dynamic_conv(&x, &weight, HEADS, window, &Default::default())?;
    println!("y is {y:?}");

    // The same in two steps: a linear layer makes the logits, and the convolution is given them. This is the form for
    // logits that come from somewhere else.
    let logits = ops::linear(&x, &weight, &Default::default())?;
    let logits = logits.reshape(&[BATCH, TIME, HEADS, WIDTH])?;
    println!("logits are {logits:?}");
    let given = ops::dynamic_conv_given(&x, &logits, window, &Default::default())?;
    println!("generated and given differ by {:e} at most", distance(&y, &given)?);
    assert!(distance(&y, &given)? < 1e-5);

    // A generator of zeros gives every token the same logits, and with the same filter everywhere a dynamic
    // convolution is a light one.
    let zeros = Tensor::zeros(&[HEADS * WIDTH, CHANNELS], DType::F32, &device)?;
    // What is added to the logits of every token, [H K], is then all of them.
    let filter = wave(&[HEADS * WIDTH], &device)?;
    let options = ops::DynamicConvOptions { weight_bias: Some(&filter), ..Default::default() };
    let same_everywhere = ops::dynamic_conv(&x, &zeros, HEADS, window, &options)?;
    let filter = filter.reshape(&[HEADS, WIDTH])?;
    let light = ops::light_conv(&x, &filter, window, &Default::default())?;
    println!(
        "dynamic without a generator and light differ by {:e} at most",
        distance(&same_everywhere, &light)?
    );
    assert!(distance(&same_everywhere, &light)? < 1e-5);

    // The filter may be generated from other tokens than those it is applied to, with any number of channels: a
    // query, as in attention.
    let query = wave(&[BATCH, TIME, 5], &device)?;
    let weight = wave(&[HEADS * WIDTH, 5], &device)?;
    let options = ops::DynamicConvOptions { query: Some(&query), ..Default::default() };
    let y = ops::dynamic_conv(&x, &weight, HEADS, window, &options)?;
    println!("with a query of 5 channels, y is still {y:?}");
    assert_eq!(y.shape(), x.shape());
    Ok(())
}

/// Numbers to compute with.
fn wave(shape: &[usize], device: &Device) -> lightspan::Result<Tensor> {
    let len = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|i| (i as f32 * 1.7).sin()).collect();
    Tensor::from_slice(&values, shape, device)
}

/// The largest difference of two tensors.
fn distance(a: &Tensor, b: &Tensor) -> lightspan::Result<f32> {
    let pairs = a.to_f32()?.into_iter().zip(b.to_f32()?);
    Ok(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}
