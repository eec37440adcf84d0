//! 6. Span-based dynamic convolution, the operator of ConvBERT.
//!
//! A dynamic convolution makes its filter from one token, so the same word has the same filter in every sentence. The
//! span-based one makes it from a *span*: first a convolution gathers the neighbourhood of each token into a key, then
//! the key times the query generates the filter, and that filter is applied to the values.
//!
//! ```text
//! z = (pointwise(depthwise(x)) + key_bias) * q          the span-aware key, times the query
//! y = dynamic_conv(v), its filters generated from z
//! ```
//!
//! x has C channels; q, v, z and y have A. Both convolutions have the same window.
//!
//! Before: 05_own_buffers. Next: 07_verify.

use lightspan::{DType, Device, Tensor, Window, ops};

const TIME: usize = 12;
const CHANNELS: usize = 6;
const ATTENTION_CHANNELS: usize = 8;
const HEADS: usize = 2;
const WIDTH: usize = 5;

fn main() -> lightspan::Result<()> {
    let device = Device::cpu();
    let window = Window::same(WIDTH)?;

    // In a layer, query and value are linear maps of x. Here they are made up.
    let tensor = |shape: &[usize], step: f32| wave(shape, step, &device);
    let x = tensor(&[1, TIME, CHANNELS], 1.7)?;
    let query = tensor(&[1, TIME, ATTENTION_CHANNELS], 0.9)?;
    let value = tensor(&[1, TIME, ATTENTION_CHANNELS], 0.4)?;
    let depthwise = tensor(&[CHANNELS, WIDTH], 1.1)?;
    let pointwise = tensor(&[ATTENTION_CHANNELS, CHANNELS], 0.7)?;
    let weight = tensor(&[HEADS * WIDTH, ATTENTION_CHANNELS], 1.3)?;

    // One call.
    let tensors = ops::SpanConvTensors {
        x: &x,
        query: (&query).into(),
        value: (&value).into(),
        depthwise: &depthwise,
        pointwise: &pointwise,
        weight: &weight,
    };
    let y = ops::span_conv(&tensors, HEADS, window, &Default::default())?;
    println!("x is {x:?}");
    println!("y is {y:?}");
    assert_eq!(y.shape(), value.shape());

    // Two calls: the key, in f32 as it is inside of the operator, and the convolution of v with filters from it.
    let key = ops::SpanKeyTensors { x: &x, query: &query, depthwise: &depthwise, pointwise: &pointwise };
    let options = ops::SpanKeyOptions { output: Some(DType::F32), ..Default::default() };
    let z = ops::span_key(&key, window, &options)?;
    let options = ops::DynamicConvOptions { query: Some(&z), ..Default::default() };
    let in_two = ops::dynamic_conv(&value, &weight, HEADS, window, &options)?;
    println!("one call and two differ by {:e} at most", distance(&y, &in_two)?);
    assert!(distance(&y, &in_two)? < 1e-5);

    // What the span is for: let one token of x be another. Query and value stay, so the filters of a dynamic
    // convolution would too; these change for every token whose span has the other token in it, and only for those.
    let changed = 6;
    let mut other = x.to_f32()?;
    other[changed * CHANNELS..][..CHANNELS].fill(2.0);
    let other = Tensor::from_slice(&other, x.shape(), &device)?;
    let other_y =
        ops::span_conv(&ops::SpanConvTensors { x: &other, ..tensors }, HEADS, window, &Default::default())?;
    let (before, after) = (y.to_f32()?, other_y.to_f32()?);
    let token = |y: &[f32], t: usize| y[t * ATTENTION_CHANNELS..][..ATTENTION_CHANNELS].to_vec();
    let moved: Vec<usize> = (0..TIME).filter(|&t| token(&before, t) != token(&after, t)).collect();
    println!("another token {changed} changes the filters of tokens {moved:?}");
    assert_eq!(moved, [4, 5, 6, 7, 8]);
    Ok(())
}

/// Numbers to compute with.
fn wave(shape: &[usize], step: f32, device: &Device) -> lightspan::Result<Tensor> {
    let len = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|i| (i as f32 * step).sin()).collect();
    Tensor::from_slice(&values, shape, device)
}

/// The largest difference of two tensors.
fn distance(a: &Tensor, b: &Tensor) -> lightspan::Result<f32> {
    let pairs = a.to_f32()?.into_iter().zip(b.to_f32()?);
    Ok(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}
