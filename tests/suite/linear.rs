use lightspan::ops;
use lightspan::problem::{Activation, LinearProblem};
use lightspan::reference::{self, LinearInputs};
use proptest::prelude::*;

use crate::support::{Numbers, assert_admitted, config, devices, dtypes};

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn equals_the_reference(
        rows in prop_oneof![4 => 0usize..40, 1 => 250usize..600],
        inputs in 1usize..70,
        outputs in prop_oneof![4 => 1usize..40, 1 => 250usize..300],
        (dtype, parameters) in dtypes(),
        bias in any::<bool>(),
        activation in prop::sample::select(&[Activation::Identity, Activation::Relu][..]),
        seed in any::<u64>(),
    ) {
        let mut numbers = Numbers::new(seed);
        let problem = LinearProblem::new(rows, inputs, outputs, dtype)
            .and_then(|problem| problem.with_activation(activation).with_bias(bias).with_parameters(parameters))
            .unwrap();
        let x = numbers.draw(&[rows, inputs], dtype, 2.0);
        let weight = numbers.draw(&[outputs, inputs], parameters, 2.0);
        let bias = bias.then(|| numbers.draw(&[outputs], parameters, 2.0));
        let expected: Vec<_> = (0..rows)
            .flat_map(|row| {
                let bias = bias.as_ref().map(|bias| &bias.data[..]);
                reference::linear(&problem, LinearInputs { x: &x.data, weight: &weight.data, bias }, row)
            })
            .collect();
        for device in devices() {
            let bias = bias.as_ref().map(|bias| bias.on(&device));
            let options = ops::LinearOptions { bias: bias.as_ref(), activation };
            let y = ops::linear(&x.on(&device), &weight.on(&device), &options).unwrap();
            assert_admitted(&expected, &y)?;
        }
    }
}

#[test]
fn every_size_before_the_last_is_rows() {
    for device in devices() {
        let mut numbers = Numbers::new(1);
        let dtype = lightspan::DType::F32;
        let (x, weight) = (numbers.draw(&[2, 3, 4, 5], dtype, 1.0), numbers.draw(&[7, 5], dtype, 1.0));
        let (x, weight) = (x.on(&device), weight.on(&device));
        let y = ops::linear(&x, &weight, &Default::default()).unwrap();
        assert_eq!(y.shape(), [2, 3, 4, 7]);
        let flat = ops::linear(&x.reshape(&[24, 5]).unwrap(), &weight, &Default::default()).unwrap();
        assert_eq!(y.to_f32().unwrap(), flat.to_f32().unwrap());
    }
}
