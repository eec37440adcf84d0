//! 12. Training: gradients, weight dropout, and a filter that learns a delay.
//!
//! Convolutions, attention and linear layers have a backward pass: from the gradient of their output to those of their inputs. Of
//! a convolution's forward pass nothing has to be kept but what went in: the weights are computed again.
//!
//! ```text
//! dx[s, c]      = sum_j w[h(c), j] dy[s - j + P, c]
//! g[h, j]       = sum_t sum_c dy[t, c] x[t + j - P, c]
//! dweight[h, j] = w[h, j] (g[h, j] - sum_i w[h, i] g[h, i])
//! ```
//!
//! Here a light convolution of 7 taps sees noise, and has to say what was heard three tokens ago. Which tap that is, it finds
//! by gradient descent.
//!
//! Before: 11_cuda_own_buffers.

use lightspan::{Device, Dropout, Tensor, Window, ops};

const BATCH: usize = 4;
const TIME: usize = 64;
const CHANNELS: usize = 8;
const WIDTH: usize = 7;
const DELAY: usize = 3;
const STEPS: usize = 200;
const RATE: f32 = 20.0;

fn main() -> lightspan::Result<()> {
    let device = Device::cpu();
    let window = Window::causal(WIDTH)?;
    let shape = [BATCH, TIME, CHANNELS];
    let heard = noise(BATCH * TIME * CHANNELS);
    let wanted: Vec<f32> = (0..heard.len())
        .map(|i| if i / CHANNELS % TIME < DELAY { 0.0 } else { heard[i - DELAY * CHANNELS] })
        .collect();
    let x = Tensor::from_slice(&heard, &shape, &device)?;

    // One head: all channels share the filter. Its weights before the softmax begin at zero, all taps alike.
    let mut weight = vec![0.0f32; WIDTH];
    for step in 0..=STEPS {
        let taps = Tensor::from_slice(&weight, &[1, WIDTH], &device)?;
        // Drops one weight in ten, others in each step. The backward pass gets the same options, and drops the same.
        let dropout = Some(Dropout::new(0.1, step as u64)?);
        let options = ops::ConvOptions { dropout, ..Default::default() };
        let y = ops::light_conv(&x, &taps, window, &options)?.to_f32()?;

        // The loss is the mean of the squared errors, and this its gradient.
        let errors: Vec<f32> = y.iter().zip(&wanted).map(|(y, wanted)| y - wanted).collect();
        let loss = errors.iter().map(|error| error * error).sum::<f32>() / errors.len() as f32;
        let dy: Vec<f32> = errors.iter().map(|error| 2.0 * error / errors.len() as f32).collect();
        let dy = Tensor::from_slice(&dy, &shape, &device)?;
        if step % 40 == 0 {
            println!("step {step:3}: the loss is {loss:.4}, and the filter {:.2?}", softmax(&weight));
        }

        // Only the gradient of the weight is wanted here, so only that is computed.
        let select = ops::LightConvWanted { weight: true, ..ops::LightConvWanted::NONE };
        let found = ops::light_conv_backward(&x, &taps, &dy, window, &options, &select)?;
        assert!(found.x.is_none());
        if let Some(dweight) = found.weight {
            weight.iter_mut().zip(dweight.to_f32()?).for_each(|(w, dw)| *w -= RATE * dw);
        }
    }

    // Tap j reads token t + j - (K - 1).
    let filter = softmax(&weight);
    println!("tap {} has a weight of {:.2}", WIDTH - 1 - DELAY, filter[WIDTH - 1 - DELAY]);
    assert!(filter[WIDTH - 1 - DELAY] > 0.9);
    Ok(())
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, logit| largest.max(*logit));
    let exps: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    exps.iter().map(|exp| exp / exps.iter().sum::<f32>()).collect()
}

/// Numbers in [-1, 1) that look like noise.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}
