//! Weight dropout drops what lightspan's own operators drop for the same seed, forward and backward, to the last bit.

use candle_core::{Result, Tensor, Var};
use lightspan::ops;
use lightspan::{DType, Dropout, Window};
use lightspan_candle as candle;

use crate::support::{Numbers, Values, to_f64};

const HEADS: usize = 3;
const WIDTH: usize = 5;
const CHANNELS: usize = 12;
const SHAPE: [usize; 3] = [2, 17, CHANNELS];

struct Inputs {
    x: Values,
    query: Values,
    filter: Values,
    logits: Values,
    generator: Values,
    depthwise: Values,
    pointwise: Values,
    dy: Values,
}

impl Inputs {
    fn draw(dtype: DType) -> Self {
        let mut numbers = Numbers::new(3);
        let mut draw = |shape: &[usize]| numbers.draw(shape, dtype, 1.0);
        Inputs {
            x: draw(&SHAPE),
            query: draw(&SHAPE),
            filter: draw(&[HEADS, WIDTH]),
            logits: draw(&[SHAPE[0], SHAPE[1], HEADS, WIDTH]),
            generator: draw(&[HEADS * WIDTH, CHANNELS]),
            depthwise: draw(&[CHANNELS, WIDTH]),
            pointwise: draw(&[CHANNELS, CHANNELS]),
            dy: draw(&SHAPE),
        }
    }
}

fn var(values: &Values) -> Result<Var> {
    Var::from_tensor(&values.tensor()?)
}

/// The output of a call, and then its gradients.
fn ours(y: Tensor, dy: &Values, of: &[&Var]) -> Result<Vec<Vec<f64>>> {
    let gradients = (&y * dy.tensor()?)?.sum_all()?.backward()?;
    let mut all = vec![to_f64(&y)?];
    for var in of {
        all.push(to_f64(gradients.get(var).expect("a gradient"))?);
    }
    Ok(all)
}

fn theirs(y: lightspan::Tensor, gradients: Vec<Option<lightspan::Tensor>>) -> Vec<Vec<f64>> {
    let numbers = |tensor: &lightspan::Tensor| -> Vec<f64> {
        tensor.to_f32().unwrap().into_iter().map(f64::from).collect()
    };
    let gradients = gradients.iter().map(|gradient| numbers(gradient.as_ref().expect("a gradient")));
    std::iter::once(numbers(&y)).chain(gradients).collect()
}

/// Both sides of every operator, in one order.
fn both(dtype: DType, dropout: Option<Dropout>) -> Result<[Vec<Vec<Vec<f64>>>; 2]> {
    let inputs = Inputs::draw(dtype);
    let Inputs { x, query, filter, logits, generator, depthwise, pointwise, dy } = &inputs;
    let window = Window::causal(WIDTH).unwrap();
    let [tx, tq, tf, tl, tg, td, tp, tdy] =
        [x, query, filter, logits, generator, depthwise, pointwise, dy].map(Values::lightspan);
    let [vx, vq, vf, vl, vg, vd, vp] =
        [var(x)?, var(query)?, var(filter)?, var(logits)?, var(generator)?, var(depthwise)?, var(pointwise)?];
    let (mut found, mut expected) = (vec![], vec![]);

    let options = candle::ConvOptions { dropout, ..Default::default() };
    let own = ops::ConvOptions { dropout, ..Default::default() };
    found.push(ours(candle::light_conv(&vx, &vf, window, &options)?, dy, &[&vx, &vf])?);
    let y = ops::light_conv(&tx, &tf, window, &own).unwrap();
    let wanted = ops::LightConvWanted::ALL;
    let gradients = ops::light_conv_backward(&tx, &tf, &tdy, window, &own, &wanted).unwrap();
    expected.push(theirs(y, vec![gradients.x, gradients.weight]));

    found.push(ours(candle::dynamic_conv_given(&vx, &vl, window, &options)?, dy, &[&vx, &vl])?);
    let y = ops::dynamic_conv_given(&tx, &tl, window, &own).unwrap();
    let wanted = ops::DynamicConvWanted::ALL;
    let gradients = ops::dynamic_conv_given_backward(&tx, &tl, &tdy, window, &own, &wanted).unwrap();
    expected.push(theirs(y, vec![gradients.x, gradients.logits]));

    let options = candle::DynamicConvOptions { dropout, query: Some(&vq), ..Default::default() };
    let own = ops::DynamicConvOptions { dropout, query: Some(&tq), ..Default::default() };
    found.push(ours(candle::dynamic_conv(&vx, &vg, HEADS, window, &options)?, dy, &[&vx, &vg, &vq])?);
    let y = ops::dynamic_conv(&tx, &tg, HEADS, window, &own).unwrap();
    let gradients = ops::dynamic_conv_backward(&tx, &tg, &tdy, HEADS, window, &own, &wanted).unwrap();
    expected.push(theirs(y, vec![gradients.x, gradients.weight, gradients.query]));

    let tensors = candle::SpanConvTensors {
        x: &vx,
        query: &vq,
        value: &vx,
        depthwise: &vd,
        pointwise: &vp,
        weight: &vg,
    };
    let options = candle::SpanConvOptions { dropout, ..Default::default() };
    found.push(ours(candle::span_conv(&tensors, HEADS, window, &options)?, dy, &[&vq, &vd, &vp, &vg])?);
    let tensors = ops::SpanConvTensors {
        x: &tx,
        query: (&tq).into(),
        value: (&tx).into(),
        depthwise: &td,
        pointwise: &tp,
        weight: &tg,
    };
    let own = ops::SpanConvOptions { dropout, ..Default::default() };
    let y = ops::span_conv(&tensors, HEADS, window, &own).unwrap();
    let wanted = ops::SpanConvWanted::ALL;
    let g = ops::span_conv_backward(&tensors, &tdy, HEADS, window, &own, &wanted).unwrap();
    expected.push(theirs(y, vec![g.query, g.depthwise, g.pointwise, g.weight]));
    Ok([found, expected])
}

#[test]
fn drops_what_lightspan_drops() -> Result<()> {
    for dtype in DType::ALL {
        let mut outputs = vec![];
        for dropout in [None, Some(Dropout::new(0.3, 7).unwrap()), Some(Dropout::new(0.3, 8).unwrap())] {
            let [found, expected] = both(dtype, dropout)?;
            assert_eq!(found, expected, "{dtype} {dropout:?}");
            outputs.push(found);
        }
        // Another seed drops other weights, in every operator.
        for ((none, one), other) in outputs[0].iter().zip(&outputs[1]).zip(&outputs[2]) {
            assert_ne!(none[0], one[0]);
            assert_ne!(one[0], other[0]);
        }
        // And a rate of 0 none.
        let [found, _] = both(dtype, Some(Dropout::new(0.0, 7).unwrap()))?;
        assert_eq!(found, outputs[0]);
    }
    Ok(())
}
