//! Tensors that have several places in a call or lie inside of one another, and those of which there is nothing.

use candle_core::{DType, Result, Tensor, Var};
use lightspan::{Sequences, Window};
use lightspan_candle::{
    ConvOptions, DynamicConvOptions, SpanConvOptions, SpanConvTensors, dynamic_conv, light_conv, span_conv,
};

use crate::support::{Numbers, Unfused, device, to_f64};

const HEADS: usize = 2;
const WIDTH: usize = 3;
const CHANNELS: usize = 6;

/// Numbers where the operators run.
fn drawn(numbers: &mut Numbers, shape: &[usize]) -> Result<Tensor> {
    numbers.draw(shape, lightspan::DType::F32, 1.0).tensor()?.to_device(&device()?)
}

fn var(numbers: &mut Numbers, shape: &[usize]) -> Result<Var> {
    Var::from_tensor(&drawn(numbers, shape)?)
}

/// Fails unless two tensors agree to a few roundoffs of the largest number: the sums here are short.
fn assert_close(name: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
    let (found, expected) = (to_f64(found)?, to_f64(expected)?);
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= 1e-5 * largest, "{name}: {found} and {expected}");
    }
    assert!(largest > 0.0, "{name} is all zeros");
    Ok(())
}

fn window() -> Window {
    Window::same(WIDTH).unwrap()
}

#[test]
fn gradients_of_all_uses_of_a_tensor_add_up() -> Result<()> {
    let mut numbers = Numbers::new(1);
    let x = var(&mut numbers, &[2, 9, CHANNELS])?;
    let weight = var(&mut numbers, &[HEADS * WIDTH, CHANNELS])?;
    let dy = drawn(&mut numbers, &[2, 9, CHANNELS])?;
    let gradients = |y: Tensor| (y * &dy)?.sum_all()?.backward();
    // x is the query: once as the operator knows it, once by name.
    let own = DynamicConvOptions::default();
    let named = DynamicConvOptions { query: Some(&x), ..own };
    let one = gradients(dynamic_conv(&x, &weight, HEADS, window(), &own)?)?;
    let two = gradients(dynamic_conv(&x, &weight, HEADS, window(), &named)?)?;
    for var in [&x, &weight] {
        assert_close("dx", one.get(var).unwrap(), two.get(var).unwrap())?;
    }
    // Without variables too, where it is held and locked once.
    let plain = x.as_tensor().detach();
    let options = DynamicConvOptions { query: Some(&plain), ..own };
    let y = dynamic_conv(&plain, &weight.as_tensor().detach(), HEADS, window(), &options)?;
    assert!(!y.track_op());
    assert_close("y", &y, &dynamic_conv(&x, &weight, HEADS, window(), &own)?)
}

#[test]
fn values_and_queries_out_of_one_projection() -> Result<()> {
    // Beside a composition, which stays there.
    let on_cpu = |numbers: &mut Numbers, shape: &[usize]| {
        Var::from_tensor(&numbers.draw(shape, lightspan::DType::F32, 1.0).tensor()?)
    };
    let mut numbers = Numbers::new(2);
    let (shape, wide) = ([2, 7, CHANNELS], [2, 7, 3 * CHANNELS]);
    let projected = on_cpu(&mut numbers, &wide)?;
    let depthwise = on_cpu(&mut numbers, &[CHANNELS, WIDTH])?;
    let pointwise = on_cpu(&mut numbers, &[CHANNELS, CHANNELS])?;
    let weight = on_cpu(&mut numbers, &[HEADS * WIDTH, CHANNELS])?;
    let [key_bias, bias] = [on_cpu(&mut numbers, &[CHANNELS])?, on_cpu(&mut numbers, &[CHANNELS])?];
    let weight_bias = on_cpu(&mut numbers, &[HEADS * WIDTH])?;
    let dy = numbers.draw(&shape, lightspan::DType::F32, 1.0).tensor()?;
    let part = |i: usize| projected.narrow(2, i * CHANNELS, CHANNELS);
    let (x, query, value) = (&part(0)?, &part(1)?, &part(2)?);

    let tensors =
        SpanConvTensors { x, query, value, depthwise: &depthwise, pointwise: &pointwise, weight: &weight };
    let options = SpanConvOptions {
        key_bias: Some(&key_bias),
        weight_bias: Some(&weight_bias),
        bias: Some(&bias),
        ..Default::default()
    };
    let y = span_conv(&tensors, HEADS, window(), &options)?;
    let found = (&y * &dy)?.sum_all()?.backward()?;

    let sequences = Sequences::batch(2, 7).unwrap();
    let unfused =
        Unfused { sequences: &sequences, window: window(), normalize: Default::default(), dropout: None };
    let z = unfused.key(x, query, &depthwise, &pointwise, Some(&key_bias))?;
    let logits = unfused.generate(&z, &weight, Some(&weight_bias))?;
    let expected_y = unfused.convolve(value, &logits, Some(&bias))?;
    let expected = (&expected_y * &dy)?.sum_all()?.backward()?;
    assert_close("y", &y, &expected_y)?;
    for (name, var) in [
        ("projected", &projected),
        ("depthwise", &depthwise),
        ("pointwise", &pointwise),
        ("weight", &weight),
        ("key_bias", &key_bias),
        ("weight_bias", &weight_bias),
        ("bias", &bias),
    ] {
        assert_close(name, found.get(var).unwrap(), expected.get(var).unwrap())?;
    }
    Ok(())
}

#[test]
fn an_input_may_be_one_token_seen_many_times() -> Result<()> {
    let mut numbers = Numbers::new(3);
    let token = var(&mut numbers, &[1, 1, CHANNELS])?;
    let weight = var(&mut numbers, &[HEADS, WIDTH])?;
    let dy = drawn(&mut numbers, &[2, 5, CHANNELS])?;
    let x = token.broadcast_as((2, 5, CHANNELS))?;
    let copy = x.contiguous()?;
    let options = ConvOptions::default();
    let found = (light_conv(&x, &weight, window(), &options)? * &dy)?.sum_all()?.backward()?;
    let expected = (light_conv(&copy, &weight, window(), &options)? * &dy)?.sum_all()?.backward()?;
    for var in [&token, &weight] {
        assert_eq!(to_f64(found.get(var).unwrap())?, to_f64(expected.get(var).unwrap())?);
    }
    Ok(())
}

#[test]
fn gradients_are_constants() -> Result<()> {
    let mut numbers = Numbers::new(4);
    let x = var(&mut numbers, &[1, 5, CHANNELS])?;
    let weight = var(&mut numbers, &[HEADS, WIDTH])?;
    let y = light_conv(&x, &weight, window(), &Default::default())?;
    let found = y.sum_all()?.backward()?;
    assert!(!found.get(&x).unwrap().track_op());
    assert!(!found.get(&weight).unwrap().track_op());
    Ok(())
}

#[test]
fn a_graph_may_go_backward_twice_and_an_output_to_two_places() -> Result<()> {
    let mut numbers = Numbers::new(7);
    let shape = [2, 9, CHANNELS];
    let [x, query] = [var(&mut numbers, &shape)?, var(&mut numbers, &shape)?];
    let [filter, generator] =
        [var(&mut numbers, &[HEADS, WIDTH])?, var(&mut numbers, &[HEADS * WIDTH, CHANNELS])?];
    let [weight_bias, bias] = [var(&mut numbers, &[HEADS * WIDTH])?, var(&mut numbers, &[CHANNELS])?];
    let [one, two] = [drawn(&mut numbers, &shape)?, drawn(&mut numbers, &shape)?];

    // As arguments of their own, and with the parameters in one.
    let light = ConvOptions { bias: Some(&bias), ..Default::default() };
    let dynamic = DynamicConvOptions {
        query: Some(&query),
        weight_bias: Some(&weight_bias),
        bias: Some(&bias),
        ..Default::default()
    };
    for (y, vars) in [
        (light_conv(&x, &filter, window(), &light)?, vec![&x, &filter, &bias]),
        (
            dynamic_conv(&x, &generator, HEADS, window(), &dynamic)?,
            vec![&x, &query, &generator, &weight_bias, &bias],
        ),
    ] {
        let loss = ((&y * &one)? + (&y * &two)?)?.sum_all()?;
        let (first, second) = (loss.backward()?, loss.backward()?);
        let expected = (&y * (&one + &two)?)?.sum_all()?.backward()?;
        for var in vars {
            assert_eq!(to_f64(first.get(var).unwrap())?, to_f64(second.get(var).unwrap())?);
            assert_close("gradient", first.get(var).unwrap(), expected.get(var).unwrap())?;
        }
    }
    Ok(())
}

#[test]
fn of_nothing_there_is_nothing() -> Result<()> {
    let mut numbers = Numbers::new(5);
    let weight = var(&mut numbers, &[HEADS, WIDTH])?;
    let [bias, query_weight] =
        [var(&mut numbers, &[CHANNELS])?, var(&mut numbers, &[HEADS * WIDTH, CHANNELS])?];
    for shape in [(0, 4, CHANNELS), (3, 0, CHANNELS)] {
        let x = Var::zeros(shape, DType::F32, &device()?)?;
        let options = ConvOptions { bias: Some(&bias), ..Default::default() };
        let y = light_conv(&x, &weight, window(), &options)?;
        assert_eq!(y.dims3()?, shape);
        if x.device().is_cuda() {
            eprintln!(
                "SKIPPED on CUDA: candle launches no blocks for the ones that a backward pass begins with"
            );
            continue;
        }
        // The root of a backward pass may be any tensor: its gradient is ones.
        let found = y.backward()?;
        assert_eq!(found.get(&x).unwrap().dims3()?, shape);
        for var in [&weight, &bias] {
            assert!(to_f64(found.get(var).unwrap())?.iter().all(|&x| x == 0.0));
        }
        let y = dynamic_conv(&x, &query_weight, HEADS, window(), &Default::default())?;
        let found = y.backward()?;
        assert!(to_f64(found.get(&query_weight).unwrap())?.iter().all(|&x| x == 0.0));
    }
    Ok(())
}

#[test]
fn calls_from_many_threads_are_as_one() -> Result<()> {
    let mut numbers = Numbers::new(6);
    let x = var(&mut numbers, &[4, 64, 32])?;
    let weight = var(&mut numbers, &[4 * WIDTH, 32])?;
    let run = || -> Result<Vec<f64>> {
        let y = dynamic_conv(&x, &weight, 4, window(), &Default::default())?;
        let found = y.sum_all()?.backward()?;
        Ok([to_f64(&y)?, to_f64(found.get(&x).unwrap())?, to_f64(found.get(&weight).unwrap())?].concat())
    };
    let expected = run()?;
    // A GPU's threads have streams of their own.
    device()?.synchronize()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| (0..10).map(|_| run()).collect())).collect();
        for thread in threads {
            let all: Result<Vec<Vec<f64>>> = thread.join().expect("no panic");
            assert!(all?.iter().all(|found| *found == expected));
        }
        Ok(())
    })
}
