pub mod backward;

use lightspan::problem::{Activation, LinearProblem};
use lightspan::reference::{self, Estimate, LinearInputs};
use lightspan::{DType, Device, Tensor, ops};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::support::{Numbers, Values, assert_admitted, config, devices, dtypes, overwritten};

/// A drawn call with its numbers.
#[derive(Debug)]
pub struct Call {
    pub problem: LinearProblem,
    pub x: Values,
    pub weight: Values,
    pub bias: Option<Values>,
    pub residual: Option<Values>,
}

impl Call {
    pub fn draw(problem: LinearProblem, seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let (weight_rows, parameters) = (problem.weight_rows(), problem.parameters());
        let of_y = [problem.rows(), problem.outputs()];
        Call {
            problem,
            x: numbers.draw(&[problem.rows(), problem.inputs()], problem.dtype(), 2.0),
            weight: numbers.draw(&[weight_rows, problem.group_inputs()], parameters, 2.0),
            bias: problem.has_bias().then(|| numbers.draw(&[weight_rows], parameters, 2.0)),
            residual: problem.has_residual().then(|| numbers.draw(&of_y, problem.dtype(), 2.0)),
        }
    }

    pub fn expected(&self, row: usize) -> Vec<Estimate> {
        reference::linear(&self.problem, self.inputs(), row)
    }

    pub fn inputs(&self) -> LinearInputs<'_> {
        let bias = self.bias.as_ref().map(|bias| &bias.data[..]);
        let residual = self.residual.as_ref().map(|residual| &residual.data[..]);
        LinearInputs { x: &self.x.data, weight: &self.weight.data, bias, residual }
    }

    pub fn run(&self, device: &Device) -> Tensor {
        let [bias, residual] =
            [&self.bias, &self.residual].map(|values| values.as_ref().map(|v| v.on(device)));
        let options = ops::LinearOptions {
            bias: bias.as_ref(),
            activation: self.problem.activation(),
            residual: residual.as_ref(),
            groups: self.problem.groups(),
        };
        let (x, weight) = (self.x.on(device), self.weight.on(device));
        let y = ops::linear(&x, &weight, &options).unwrap();
        overwritten(y, |y| ops::linear_into(y, &x, &weight, &options))
    }

    /// Fails unless every device gives what the reference expects.
    fn check(&self) -> Result<(), TestCaseError> {
        let expected: Vec<_> = (0..self.problem.rows()).flat_map(|row| self.expected(row)).collect();
        for device in devices() {
            assert_admitted(&expected, &self.run(&device))?;
        }
        Ok(())
    }
}

/// Sizes of which some make several tiles: rows, inputs and outputs.
fn sizes() -> impl Strategy<Value = [usize; 3]> {
    let rows = prop_oneof![4 => 0usize..40, 1 => 250usize..600];
    let outputs = prop_oneof![4 => 1usize..40, 1 => 250usize..300];
    (rows, 1usize..70, outputs).prop_map(|(rows, inputs, outputs)| [rows, inputs, outputs])
}

/// Linear layers of all types that have a backward pass.
pub fn differentiable() -> impl Strategy<Value = LinearProblem> {
    let activation = prop::sample::select(&[Activation::Identity, Activation::Relu][..]);
    (sizes(), dtypes(), any::<[bool; 2]>(), activation).prop_map(
        |([rows, inputs, outputs], (dtype, parameters), [bias, residual], activation)| {
            LinearProblem::new(rows, inputs, outputs, dtype)
                .and_then(|problem| problem.with_parameters(parameters)?.with_activation(activation))
                .unwrap()
                .with_bias(bias)
                .with_residual(residual && activation == Activation::Identity)
        },
    )
}

/// Linear layers of all types, with all that they may have; in groups the sizes are those of one.
pub fn problem() -> impl Strategy<Value = LinearProblem> {
    let activation = prop::sample::select(&Activation::ALL[..]);
    let groups = prop_oneof![3 => Just(1usize), 1 => 2usize..6];
    (sizes(), dtypes(), any::<[bool; 2]>(), activation, groups).prop_map(
        |([rows, inputs, outputs], (dtype, parameters), [bias, residual], activation, groups)| {
            let groups = if activation == Activation::Glu { 1 } else { groups };
            // A group is a tile or more of its own: with many columns, few of them are enough.
            let groups = if outputs > 100 { groups.min(2) } else { groups };
            LinearProblem::new(rows, groups * inputs, groups * outputs, dtype)
                .and_then(|problem| problem.with_parameters(parameters)?.with_groups(groups))
                .and_then(|problem| problem.with_activation(activation))
                .unwrap()
                .with_bias(bias)
                .with_residual(residual)
        },
    )
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn equals_the_reference(problem in problem(), seed in any::<u64>()) {
        Call::draw(problem, seed).check()?;
    }

    /// A row has the same bits whatever the others hold.
    #[test]
    fn rows_are_independent(
        problem in problem(), row in any::<prop::sample::Index>(), seed in any::<u64>()
    ) {
        prop_assume!(problem.rows() > 1);
        let row = row.index(problem.rows());
        let mut call = Call::draw(problem, seed);
        for device in devices() {
            let of_row = |y: &Tensor| -> Vec<u32> {
                let y = y.to_f32().unwrap();
                y[row * problem.outputs()..][..problem.outputs()].iter().map(|y| y.to_bits()).collect()
            };
            let before = of_row(&call.run(&device));
            for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let mut values: Vec<_> = vec![&mut call.x];
                values.extend(&mut call.residual);
                for values in values {
                    let width = values.shape[1];
                    let rows = values.data.chunks_mut(width).enumerate();
                    rows.filter(|(other, _)| *other != row).for_each(|(_, x)| x[seed as usize % width] = wrong);
                }
                prop_assert_eq!(&before, &of_row(&call.run(&device)), "{} of {}", wrong, device);
            }
        }
    }

    /// Numbers that are not finite stay in their group.
    #[test]
    fn groups_are_independent(
        (rows, inputs, outputs, groups) in (1usize..40, 1usize..40, 1usize..40, 2usize..6), (dtype, parameters) in dtypes(),
        group in any::<prop::sample::Index>(), seed in any::<u64>()
    ) {
        let problem = LinearProblem::new(rows, groups * inputs, groups * outputs, dtype)
            .and_then(|problem| problem.with_groups(groups)?.with_parameters(parameters))
            .unwrap();
        let group = group.index(groups);
        let mut call = Call::draw(problem, seed);
        for device in devices() {
            let of_group = |y: &Tensor| -> Vec<u32> {
                let y = y.to_f32().unwrap();
                let rows = y.chunks(groups * outputs).flat_map(|row| &row[group * outputs..][..outputs]);
                rows.map(|y| y.to_bits()).collect()
            };
            let before = of_group(&call.run(&device));
            for wrong in [f64::NAN, f64::INFINITY] {
                for (i, x) in call.x.data.iter_mut().enumerate() {
                    *x = if i / inputs % groups == group { *x } else { wrong };
                }
                prop_assert_eq!(&before, &of_group(&call.run(&device)), "{} of {}", wrong, device);
            }
        }
    }
}

/// Both forms of a GELU, and GLUs with gates of all sizes, of numbers of all sizes and types.
#[test]
fn activations_of_all_numbers() {
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Glu] {
        for dtype in DType::ALL {
            let (all, bent) = ((0..0x7f80_0000u32).step_by(0x10_0001), (0..4000).map(|i| i as f64 * 0.002));
            let all = all.map(|bits| f64::from(f32::from_bits(bits))).filter(|x| *x < dtype.max() / 4.0);
            let data: Vec<f64> = all.chain(bent).flat_map(|x| [x, -x]).map(|x| dtype.round(x)).collect();
            let problem = LinearProblem::new(data.len(), 1, 3, dtype)
                .and_then(|problem| problem.with_activation(activation))
                .unwrap();
            let weight = match activation {
                Activation::Glu => vec![2.0, -0.25, 0.5, 1.0, 1.0, -1.0],
                _ => vec![1.0, -0.25, 2.0],
            };
            let call = Call {
                problem,
                x: Values { shape: vec![data.len(), 1], data, dtype },
                weight: Values { shape: vec![weight.len(), 1], data: weight, dtype },
                bias: None,
                residual: None,
            };
            call.check().unwrap();
        }
    }
}

/// Numbers as torch's gelu, glu and grouped conv1d give them.
#[test]
fn by_hand() {
    for (device, dtype) in devices().iter().flat_map(|device| DType::ALL.map(|dtype| (device, dtype))) {
        let tensor =
            |values: &[f32], shape: &[usize]| Tensor::from_f32(values, shape, dtype, device).unwrap();
        let run = |x: &Tensor, weight: &Tensor, activation, residual, groups| {
            let options = ops::LinearOptions { activation, residual, groups, bias: None };
            ops::linear(x, weight, &options).unwrap().to_f32().unwrap()
        };
        let near = |got: Vec<f32>, expected: &[f32]| {
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(expected) {
                let off = (got - expected).abs() / expected.abs().max(1.0);
                assert!(
                    off <= 2.0 * dtype.unit_roundoff() as f32 + 1e-6,
                    "{got} for {expected}, {dtype} on {device}"
                );
            }
        };
        let (one, x) = (tensor(&[1.0], &[1, 1]), tensor(&[-1.0, 0.0, 1.0, 2.0], &[4, 1]));
        near(run(&x, &one, Activation::Gelu, None, 1), &[-0.158_655_26, 0.0, 0.841_344_7, 1.954_499_7]);
        near(run(&x, &one, Activation::GeluTanh, None, 1), &[-0.158_808, 0.0, 0.841_192, 1.954_597_7]);
        near(run(&x, &one, Activation::Identity, Some(&x), 1), &[-2.0, 0.0, 2.0, 4.0]);
        let gated = tensor(&[3.0, 1.0], &[2, 1]);
        let expected = [-3.0 * 0.268_941_43, 0.0, 3.0 * 0.731_058_6, 6.0 * 0.880_797_1];
        near(run(&x, &gated, Activation::Glu, None, 1), &expected);
        let plus = [0, 1, 2, 3].map(|i| expected[i] + [-1.0, 0.0, 1.0, 2.0][i]);
        near(run(&x, &gated, Activation::Glu, Some(&x), 1), &plus);
        let (row, weight) = (
            tensor(&[1.0, 2.0, 3.0, 4.0], &[1, 4]),
            tensor(&[1.0, 1.0, 0.0, 1.0, 2.0, 0.0, 1.0, -1.0], &[4, 2]),
        );
        near(run(&row, &weight, Activation::Identity, None, 2), &[3.0, 2.0, 6.0, -1.0]);
    }
}

/// What is so large or small that nothing is left to round is what the limits are, and NaN stays NaN.
#[test]
fn limits_of_activations() {
    let (infinity, nan) = (f32::INFINITY, f32::NAN);
    for (device, dtype) in devices().iter().flat_map(|device| DType::ALL.map(|dtype| (device, dtype))) {
        let max = dtype.max() as f32;
        let tensor =
            |values: &[f32], shape: &[usize]| Tensor::from_f32(values, shape, dtype, device).unwrap();
        let run = |x: &[f32], weight: &[f32], activation| {
            let options = ops::LinearOptions { activation, ..Default::default() };
            let (x, weight) = (tensor(x, &[x.len(), 1]), tensor(weight, &[weight.len(), 1]));
            ops::linear(&x, &weight, &options).unwrap().to_f32().unwrap()
        };
        for activation in [Activation::Gelu, Activation::GeluTanh] {
            let y = run(&[infinity, max, 100.0, 0.0, -100.0, -max, -infinity, nan], &[1.0], activation);
            assert_eq!(
                y[..7],
                [infinity, max, 100.0, 0.0, 0.0, 0.0, 0.0],
                "{activation:?} in {dtype} on {device}"
            );
            assert!(y[7].is_nan(), "{activation:?} of NaN is {} in {dtype} on {device}", y[7]);
        }
        // The gate of the second number is closed.
        let y = run(&[200.0, -200.0, max, -max, infinity, nan], &[1.0, 1.0], Activation::Glu);
        assert_eq!(y[..5], [200.0, 0.0, max, 0.0, infinity], "a GLU in {dtype} on {device}");
        assert!(y[5].is_nan(), "a GLU of NaN is {} in {dtype} on {device}", y[5]);
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
        // A residual has the shape of y.
        let options = ops::LinearOptions { residual: Some(&y), ..Default::default() };
        let twice: Vec<f32> = y.to_f32().unwrap().iter().map(|y| 2.0 * y).collect();
        assert_eq!(ops::linear(&x, &weight, &options).unwrap().to_f32().unwrap(), twice);
        let flat = ops::linear(&x.reshape(&[24, 5]).unwrap(), &weight, &Default::default()).unwrap();
        assert_eq!(y.to_f32().unwrap(), flat.to_f32().unwrap());
    }
}
