//! Calls that read one variable several times, while another thread sets it: a lock that is asked for twice, with a writer
//! waiting in between, would never be had.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use candle_core::{Result, Tensor, Var};
use lightspan::Window;
use lightspan_candle::{DynamicConvOptions, SpanConvOptions, SpanConvTensors, dynamic_conv, span_conv};

use crate::support::{Numbers, device};

const HEADS: usize = 2;
const WIDTH: usize = 3;
const CHANNELS: usize = 6;
const CALLS: usize = 500;

/// Far more than the calls need: they run for less than a second.
const PATIENCE: Duration = Duration::from_secs(60);

fn var(numbers: &mut Numbers, shape: &[usize]) -> Result<Var> {
    Var::from_tensor(&numbers.draw(shape, lightspan::DType::F32, 1.0).tensor()?.to_device(&device()?)?)
}

/// Fails unless so many calls come back while `set` is set over and over.
fn comes_back(set: Var, call: impl Fn() -> Result<Tensor> + Send + 'static) -> Result<()> {
    let done = Arc::new(AtomicBool::new(false));
    let (ready, begun) = mpsc::channel();
    // Threads that may hang cannot be waited for: they are left behind.
    let setter = std::thread::spawn({
        let done = done.clone();
        move || -> Result<u64> {
            let number = Tensor::full(0.25f32, set.shape(), set.device())?;
            let mut times = 0u64;
            while !done.load(Ordering::Relaxed) {
                set.set(&number)?;
                times += 1;
                if times == 1 {
                    // Nobody listens any more where the caller has failed.
                    let _ = ready.send(());
                }
            }
            Ok(times)
        }
    });
    let (finished, found) = mpsc::channel();
    std::thread::spawn(move || {
        let calls = || -> Result<()> {
            for _ in 0..CALLS {
                call()?.sum_all()?.backward()?;
            }
            Ok(())
        };
        let _ = finished.send(begun.recv_timeout(PATIENCE).map(|()| calls()));
    });
    let result = found.recv_timeout(PATIENCE).expect("a call waits for a lock for ever");
    done.store(true, Ordering::Relaxed);
    result.expect("the variable was not set even once")?;
    assert!(setter.join().expect("no panic")? > 1);
    Ok(())
}

#[test]
fn a_query_that_is_x_without_its_gradient() -> Result<()> {
    let mut numbers = Numbers::new(1);
    let x = var(&mut numbers, &[2, 9, CHANNELS])?;
    let weight = var(&mut numbers, &[HEADS * WIDTH, CHANNELS])?;
    comes_back(x.clone(), move || {
        let query = x.detach();
        let options = DynamicConvOptions { query: Some(&query), ..Default::default() };
        dynamic_conv(&x, &weight, HEADS, Window::same(WIDTH).unwrap(), &options)
    })
}

#[test]
fn frozen_parts_of_one_projection() -> Result<()> {
    let mut numbers = Numbers::new(2);
    let projected = var(&mut numbers, &[2, 9, 3 * CHANNELS])?;
    let depthwise = var(&mut numbers, &[CHANNELS, WIDTH])?;
    let pointwise = var(&mut numbers, &[CHANNELS, CHANNELS])?;
    let weight = var(&mut numbers, &[HEADS * WIDTH, CHANNELS])?;
    comes_back(projected.clone(), move || {
        let part = |i: usize| projected.detach().narrow(2, i * CHANNELS, CHANNELS);
        let (x, query, value) = (&part(0)?, &part(1)?, &part(2)?);
        let tensors = SpanConvTensors {
            x,
            query,
            value,
            depthwise: &depthwise,
            pointwise: &pointwise,
            weight: &weight,
        };
        span_conv(&tensors, HEADS, Window::same(WIDTH).unwrap(), &SpanConvOptions::default())
    })
}

#[test]
fn parts_of_one_variable_with_their_gradients() -> Result<()> {
    let mut numbers = Numbers::new(3);
    let both = var(&mut numbers, &[2, 9, 2 * CHANNELS])?;
    let weight = var(&mut numbers, &[HEADS * WIDTH, CHANNELS])?;
    comes_back(both.clone(), move || {
        let (x, query) = (both.narrow(2, 0, CHANNELS)?, both.narrow(2, CHANNELS, CHANNELS)?);
        let options = DynamicConvOptions { query: Some(&query), ..Default::default() };
        dynamic_conv(&x, &weight, HEADS, Window::same(WIDTH).unwrap(), &options)
    })
}

#[test]
fn parameters_and_tokens_of_one_variable() -> Result<()> {
    let mut numbers = Numbers::new(4);
    // A generator of as many rows as there are tokens: a call may be given one tensor in two places.
    let tokens = HEADS * WIDTH;
    let all = var(&mut numbers, &[1, tokens, CHANNELS])?;
    comes_back(all.clone(), move || {
        let weight = all.detach().squeeze(0)?;
        dynamic_conv(&all, &weight, HEADS, Window::same(WIDTH).unwrap(), &DynamicConvOptions::default())
    })
}
