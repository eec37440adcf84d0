pub mod backward;

use lightspan::problem::{Activation, LinearProblem};
use lightspan::reference::{self, Estimate, LinearInputs};
use lightspan::{DType, Device, Tensor, ops};
use proptest::prelude::*;

use crate::support::{Numbers, Values, assert_admitted, config, devices, dtypes, overwritten};

/// A drawn call with its numbers.
#[derive(Debug)]
pub struct Call {
    pub problem: LinearProblem,
    pub x: Values,
    pub weight: Values,
    pub bias: Option<Values>,
}

impl Call {
    pub fn draw(problem: LinearProblem, seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let (inputs, outputs, parameters) = (problem.inputs(), problem.outputs(), problem.parameters());
        Call {
            problem,
            x: numbers.draw(&[problem.rows(), inputs], problem.dtype(), 2.0),
            weight: numbers.draw(&[outputs, inputs], parameters, 2.0),
            bias: problem.has_bias().then(|| numbers.draw(&[outputs], parameters, 2.0)),
        }
    }

    pub fn expected(&self, row: usize) -> Vec<Estimate> {
        reference::linear(&self.problem, self.inputs(), row)
    }

    pub fn inputs(&self) -> LinearInputs<'_> {
        let bias = self.bias.as_ref().map(|bias| &bias.data[..]);
        LinearInputs { x: &self.x.data, weight: &self.weight.data, bias }
    }

    pub fn run(&self, device: &Device) -> Tensor {
        let bias = self.bias.as_ref().map(|bias| bias.on(device));
        let options = ops::LinearOptions { bias: bias.as_ref(), activation: self.problem.activation() };
        let (x, weight) = (self.x.on(device), self.weight.on(device));
        let y = ops::linear(&x, &weight, &options).unwrap();
        overwritten(y, |y| ops::linear_into(y, &x, &weight, &options))
    }
}

/// Linear layers of all types, some of several tiles.
pub fn problem() -> impl Strategy<Value = LinearProblem> {
    let rows = prop_oneof![4 => 0usize..40, 1 => 250usize..600];
    let outputs = prop_oneof![4 => 1usize..40, 1 => 250usize..300];
    let activation = prop::sample::select(&[Activation::Identity, Activation::Relu][..]);
    ((rows, 1usize..70, outputs), dtypes(), any::<bool>(), activation).prop_map(
        |((rows, inputs, outputs), (dtype, parameters), bias, activation)| {
            LinearProblem::new(rows, inputs, outputs, dtype)
                .and_then(|problem| problem.with_parameters(parameters))
                .unwrap()
                .with_activation(activation)
                .with_bias(bias)
        },
    )
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn equals_the_reference(problem in problem(), seed in any::<u64>()) {
        let call = Call::draw(problem, seed);
        let expected: Vec<_> = (0..problem.rows()).flat_map(|row| call.expected(row)).collect();
        for device in devices() {
            assert_admitted(&expected, &call.run(&device))?;
        }
    }
}

#[test]
fn relu_keeps_nan_and_cuts_what_is_negative() {
    for (device, dtype) in devices().iter().flat_map(|device| DType::ALL.map(|dtype| (device, dtype))) {
        let x = [f32::NAN, -1.0, f32::NEG_INFINITY, -0.0, 0.0, 2.0, f32::INFINITY];
        let x = Tensor::from_f32(&x, &[7, 1], dtype, device).unwrap();
        let weight = Tensor::from_f32(&[1.0], &[1, 1], dtype, device).unwrap();
        let options = ops::LinearOptions { activation: Activation::Relu, ..Default::default() };
        let y = ops::linear(&x, &weight, &options).unwrap().to_f32().unwrap();
        assert!(y[0].is_nan(), "{dtype}: relu of NaN is {}", y[0]);
        // The sign of a zero is nobody's promise: -0.0 equals 0.0.
        assert_eq!(y[1..], [0.0, 0.0, 0.0, 0.0, 2.0, f32::INFINITY], "{dtype}");
        // A bias is added before what is negative is cut.
        let [one, below, above] =
            [1.0, -3.0, 3.0].map(|x| Tensor::from_f32(&[x], &[1], dtype, device).unwrap());
        let one = one.reshape(&[1, 1]).unwrap();
        for (bias, expected) in [(&below, 0.0), (&above, 4.0)] {
            let options = ops::LinearOptions { bias: Some(bias), ..options };
            assert_eq!(ops::linear(&one, &weight, &options).unwrap().to_f32().unwrap(), [expected]);
        }
    }
}

#[test]
fn every_size_before_the_last_is_rows() {
    for device in devices() {
        let mut numbers = Numbers::new(1);
        let dtype = DType::F32;
        let (x, weight) = (numbers.draw(&[2, 3, 4, 5], dtype, 1.0), numbers.draw(&[7, 5], dtype, 1.0));
        let (x, weight) = (x.on(&device), weight.on(&device));
        let y = ops::linear(&x, &weight, &Default::default()).unwrap();
        assert_eq!(y.shape(), [2, 3, 4, 7]);
        let flat = ops::linear(&x.reshape(&[24, 5]).unwrap(), &weight, &Default::default()).unwrap();
        assert_eq!(y.to_f32().unwrap(), flat.to_f32().unwrap());
    }
}
