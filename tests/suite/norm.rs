use lightspan::ops::{self, NormOptions, Residual};
use lightspan::problem::{NormKind, NormProblem, NormResidual};
use lightspan::reference::{self, Estimate, NormInputs};
use lightspan::{DType, Device, Result, Tensor};
use proptest::prelude::*;

use crate::support::{
    Numbers, Values, assert_admitted, assert_row_admitted, config, devices, dtypes, overwritten, same_bits,
};

pub const KINDS: [NormKind; 2] = [NormKind::Layer, NormKind::Rms];

const RESIDUALS: [NormResidual; 4] = [
    NormResidual::None,
    NormResidual::Before { sum: false },
    NormResidual::Before { sum: true },
    NormResidual::After,
];

/// A drawn call with its numbers.
#[derive(Debug)]
pub struct Call {
    pub problem: NormProblem,
    pub x: Values,
    pub residual: Option<Values>,
    pub weight: Values,
    pub bias: Option<Values>,
}

impl Call {
    /// Numbers around `mean`.
    pub fn draw(problem: NormProblem, mean: f64, seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let (dtype, parameters, channels) = (problem.dtype(), problem.parameters(), problem.channels());
        let rows = [problem.tokens(), channels];
        let mut x = numbers.draw(&rows, dtype, 2.0);
        x.data.iter_mut().for_each(|x| *x = dtype.round(*x + mean));
        Call {
            problem,
            x,
            residual: problem.has_residual().then(|| numbers.draw(&rows, dtype, 2.0)),
            weight: numbers.draw(&[channels], parameters, 2.0),
            bias: problem.has_bias().then(|| numbers.draw(&[channels], parameters, 2.0)),
        }
    }

    fn row(&self, row: usize) -> reference::NormOutputs {
        let inputs = NormInputs {
            x: &self.x.data,
            residual: self.residual.as_ref().map(|residual| &residual.data[..]),
            weight: &self.weight.data,
            bias: self.bias.as_ref().map(|bias| &bias.data[..]),
        };
        reference::norm(&self.problem, inputs, row)
    }

    /// y and, where the problem wants it, the sum.
    pub fn expected(&self) -> (Vec<Estimate>, Option<Vec<Estimate>>) {
        let (mut y, mut sum) = (vec![], vec![]);
        for row in 0..self.problem.tokens() {
            let row = self.row(row);
            y.extend(row.y);
            sum.extend(row.sum.into_iter().flatten());
        }
        (y, self.problem.has_sum().then_some(sum))
    }

    pub fn run(&self, device: &Device) -> (Tensor, Option<Tensor>) {
        let [residual, bias] =
            [&self.residual, &self.bias].map(|values| values.as_ref().map(|v| v.on(device)));
        let (x, weight) = (self.x.on(device), self.weight.on(device));
        let options = NormOptions {
            eps: Some(self.problem.eps()),
            bias: bias.as_ref(),
            residual: match (self.problem.residual(), &residual) {
                (NormResidual::Before { .. }, Some(residual)) => Residual::Before(residual),
                (NormResidual::After, Some(residual)) => Residual::After(residual),
                _ => Residual::None,
            },
        };
        let kind = self.problem.kind();
        if self.problem.has_sum() {
            let (y, sum) = match kind {
                NormKind::Layer => ops::layer_norm_with_sum(&x, &weight, &options),
                NormKind::Rms => ops::rms_norm_with_sum(&x, &weight, &options),
            }
            .unwrap();
            let mut again = Tensor::zeros(x.shape(), x.dtype(), device).unwrap();
            let y = overwritten(y, |y| into(kind, y, Some(&mut again), &x, &weight, &options));
            assert!(same_bits(&sum, &again), "the form that writes into {again:?} gives another sum");
            return (y, Some(sum));
        }
        let y = match kind {
            NormKind::Layer => ops::layer_norm(&x, &weight, &options),
            NormKind::Rms => ops::rms_norm(&x, &weight, &options),
        }
        .unwrap();
        (overwritten(y, |y| into(kind, y, None, &x, &weight, &options)), None)
    }

    /// Fails unless every device gives what the reference expects.
    fn check(&self) -> Result<(), TestCaseError> {
        let (y, sum) = self.expected();
        for device in devices() {
            let (got, got_sum) = self.run(&device);
            assert_admitted(&y, &got)?;
            assert_eq!(sum.is_some(), got_sum.is_some());
            if let (Some(sum), Some(got)) = (&sum, &got_sum) {
                assert_admitted(sum, got)?;
            }
        }
        Ok(())
    }
}

fn into(
    kind: NormKind,
    y: &mut Tensor,
    sum: Option<&mut Tensor>,
    x: &Tensor,
    weight: &Tensor,
    options: &NormOptions<'_>,
) -> Result<()> {
    match kind {
        NormKind::Layer => ops::layer_norm_into(y, sum, x, weight, options),
        NormKind::Rms => ops::rms_norm_into(y, sum, x, weight, options),
    }
}

/// Rows of every length up to some thousands, with all that a norm may have.
pub fn problem() -> impl Strategy<Value = NormProblem> {
    let short = (0usize..40, 1usize..70);
    let middle = (0usize..8, 60usize..1100);
    let round = prop::sample::select(&[32usize, 64, 128, 256, 512, 768, 1024, 2048][..]);
    let long = (1usize..3, 2000usize..5000);
    let sizes = prop_oneof![4 => short, 2 => middle, 2 => (1usize..6, round), 1 => long];
    let kind = prop::sample::select(&KINDS[..]);
    let residual = prop::sample::select(&RESIDUALS[..]);
    let eps = prop::sample::select(&[1e-5f32, 1e-6, 1e-12, 0.5, f32::MIN_POSITIVE][..]);
    (kind, sizes, dtypes(), any::<bool>(), residual, eps).prop_map(
        |(kind, (tokens, channels), (dtype, parameters), bias, residual, eps)| {
            NormProblem::new(kind, tokens, channels, dtype)
                .and_then(|problem| problem.with_parameters(parameters)?.with_eps(eps))
                .unwrap()
                .with_bias(bias)
                .with_residual(residual)
        },
    )
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn equals_the_reference(
        problem in problem(), mean in prop::sample::select(&[0.0, 0.0, 1.0, -30.0, 1000.0][..]), seed in any::<u64>()
    ) {
        Call::draw(problem, mean, seed).check()?;
    }

    /// A row has the same bits among others, and whatever they hold.
    #[test]
    fn rows_are_independent(
        problem in problem(), row in any::<prop::sample::Index>(), seed in any::<u64>()
    ) {
        prop_assume!(problem.tokens() > 0);
        let (channels, row) = (problem.channels(), row.index(problem.tokens()));
        let mut call = Call::draw(problem, 1.0, seed);
        let cut = |values: &Values| Values {
            data: values.data[row * channels..][..channels].to_vec(),
            shape: vec![1, channels],
            dtype: values.dtype,
        };
        let (x, residual) = (cut(&call.x), call.residual.as_ref().map(cut));
        let alone = NormProblem::new(problem.kind(), 1, channels, problem.dtype())
            .and_then(|alone| alone.with_parameters(problem.parameters())?.with_eps(problem.eps()))
            .unwrap()
            .with_bias(problem.has_bias())
            .with_residual(problem.residual());
        let alone = Call { problem: alone, x, residual, weight: call.weight.clone(), bias: call.bias.clone() };
        for device in devices() {
            let (y, sum) = alone.run(&device);
            for others in [None, Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY)] {
                if let Some(wrong) = others {
                    let rows = call.x.data.chunks_mut(channels).enumerate();
                    rows.filter(|(other, _)| *other != row).for_each(|(_, x)| x[seed as usize % channels] = wrong);
                }
                let (all, all_sum) = call.run(&device);
                for (alone, all) in [(Some(&y), Some(&all)), (sum.as_ref(), all_sum.as_ref())] {
                    let bits = |tensor: &Tensor| -> Vec<u32> {
                        tensor.to_f32().unwrap().into_iter().map(f32::to_bits).collect()
                    };
                    let cut_row = |bits: Vec<u32>| bits[row * channels..][..channels].to_vec();
                    prop_assert_eq!(alone.map(bits), all.map(bits).map(cut_row), "{}", device);
                }
            }
        }
    }

    /// The mean is taken off: a layer norm is the same of numbers that are all larger by as much. They are multiples of
    /// 1/8 and stay exact, so that both calls have the same differences.
    #[test]
    fn layer_norm_does_not_see_a_shift(
        (tokens, channels) in (1usize..5, 1usize..300), shift in -50i32..50, seed in any::<u64>()
    ) {
        let problem = NormProblem::new(NormKind::Layer, tokens, channels, DType::F32).unwrap();
        let mut call = Call::draw(problem, 0.0, seed);
        call.x.data.iter_mut().for_each(|x| *x = (*x * 8.0).round() / 8.0);
        let (expected, _) = call.expected();
        call.x.data.iter_mut().for_each(|x| *x += f64::from(shift));
        let (shifted, _) = call.expected();
        for device in devices() {
            let (got, _) = call.run(&device);
            // The numbers of the row as it was, within the bounds of the row as it is.
            let moved: Vec<_> = expected
                .iter()
                .zip(&shifted)
                .map(|(one, other)| Estimate { value: one.value, bound: other.bound * 1.001 + 1e-12 })
                .collect();
            assert_admitted(&moved, &got)?;
        }
    }
}

/// A mean a thousand times the deviation: the bound of the reference has no room for a variance that is a difference of
/// large squares.
#[test]
fn a_large_mean_does_not_spoil_the_variance() {
    for channels in [64, 768] {
        let problem = NormProblem::new(NormKind::Layer, 3, channels, DType::F32).unwrap();
        let call = Call::draw(problem, 3000.0, 7);
        let (expected, _) = call.expected();
        let root = |row: &[f32]| {
            let mean = |of: &dyn Fn(f32) -> f32| row.iter().map(|&x| of(x)).sum::<f32>() / channels as f32;
            let mean_of_squares = mean(&|x| x * x);
            (mean(&|x| x), (mean_of_squares - mean(&|x| x).powi(2)).max(0.0) + 1e-5)
        };
        let naive: Vec<bool> = (0..3 * channels)
            .map(|i| {
                let row: Vec<f32> =
                    call.x.data[i / channels * channels..][..channels].iter().map(|&x| x as f32).collect();
                let (mean, variance) = root(&row);
                let weight = call.weight.data[i % channels] as f32;
                let y = (call.x.data[i] as f32 - mean) / variance.sqrt() * weight;
                expected[i].admits(f64::from(y), DType::F32)
            })
            .collect();
        assert!(naive.contains(&false), "the bound has room for what it should refuse");
        call.check().unwrap();
    }
}

/// Sums of very many equal terms, where roundings do not cancel.
#[test]
fn long_rows() {
    for (kind, residual) in KINDS.into_iter().flat_map(|kind| RESIDUALS.map(|residual| (kind, residual))) {
        let problem = NormProblem::new(kind, 2, 20_000, DType::F32).unwrap().with_residual(residual);
        let mut call = Call::draw(problem, 0.0, 8);
        // No f32 is 0.1, so that every sum is rounded; one number is another, or there would be no deviation.
        call.x.data.fill(f64::from(0.1f32));
        call.x.data[5] = 2.0;
        call.residual.iter_mut().for_each(|residual| residual.data.fill(f64::from(0.3f32)));
        call.check().unwrap();
    }
}

/// A row of one number has no deviation, and a row of zeros no size: what is left is the bias.
#[test]
fn rows_without_deviation() {
    for (device, dtype) in devices().iter().flat_map(|device| DType::ALL.map(|dtype| (device, dtype))) {
        let tensor =
            |values: &[f32], shape: &[usize]| Tensor::from_f32(values, shape, dtype, device).unwrap();
        let bias = tensor(&[0.5], &[1]);
        let options = NormOptions { bias: Some(&bias), ..Default::default() };
        let y =
            ops::layer_norm(&tensor(&[3.0, -7.0, 0.0], &[3, 1]), &tensor(&[2.0], &[1]), &options).unwrap();
        assert_eq!(y.to_f32().unwrap(), [0.5; 3], "{dtype} on {device}");
        for eps in [f32::MIN_POSITIVE, 1.0] {
            let options = NormOptions { eps: Some(eps), ..Default::default() };
            let (zeros, weight) = (tensor(&[0.0; 10], &[2, 5]), tensor(&[3.0; 5], &[5]));
            for y in [ops::layer_norm(&zeros, &weight, &options), ops::rms_norm(&zeros, &weight, &options)] {
                assert_eq!(y.unwrap().to_f32().unwrap(), [0.0; 10], "{dtype} on {device}");
            }
        }
    }
}

/// Numbers as torch's layer_norm documents them, and T5's.
#[test]
fn by_hand() {
    for device in devices() {
        let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &device).unwrap();
        let (x, residual) = (tensor(&[1.0, 2.0, 3.0, 6.0], &[1, 4]), tensor(&[0.0, 1.0, 2.0, 1.0], &[1, 4]));
        let (weight, bias) = (tensor(&[1.0, 2.0, -1.0, 0.5], &[4]), tensor(&[0.0, 1.0, 0.0, -1.0], &[4]));
        let eps = Some(0.5);
        let near = |got: Result<Tensor>, expected: [f64; 4]| {
            let got = got.unwrap().to_f32().unwrap();
            for (got, expected) in got.iter().zip(expected) {
                assert!((f64::from(*got) - expected).abs() < 1e-5, "{got} for {expected} on {device}");
            }
        };
        // The mean is 3, the differences -2 -1 0 3, the variance 14 / 4.
        let r = 1.0 / 4.0f64.sqrt();
        let options = NormOptions { eps, bias: Some(&bias), residual: Residual::None };
        near(ops::layer_norm(&x, &weight, &options), [-2.0 * r, 1.0 - 2.0 * r, 0.0, 1.5 * r - 1.0]);
        let options = NormOptions { eps, bias: None, residual: Residual::After(&residual) };
        near(ops::layer_norm(&x, &weight, &options), [-2.0 * r, 1.0 - 2.0 * r, 2.0, 1.0 + 1.5 * r]);
        // The sum is 1 3 5 7, with a mean of 4 and a variance of 5.
        let r = 1.0 / 5.5f64.sqrt();
        let options = NormOptions { eps, bias: None, residual: Residual::Before(&residual) };
        near(ops::layer_norm(&x, &weight, &options), [-3.0 * r, -2.0 * r, -r, 1.5 * r]);
        let (_, sum) = ops::rms_norm_with_sum(&x, &weight, &options).unwrap();
        assert_eq!(sum.to_f32().unwrap(), [1.0, 3.0, 5.0, 7.0]);
        let r = 1.0 / 21.5f64.sqrt();
        near(ops::rms_norm(&x, &weight, &options), [r, 6.0 * r, -5.0 * r, 3.5 * r]);
    }
}

/// The norm is of the sum as it is in f32, and not of what is stored of it.
#[test]
fn the_norm_is_of_the_sum_before_it_is_rounded() {
    for device in devices() {
        let problem = NormProblem::new(NormKind::Layer, 2, 96, DType::BF16)
            .and_then(|problem| problem.with_parameters(DType::F32))
            .unwrap()
            .with_residual(NormResidual::Before { sum: true });
        let mut call = Call::draw(problem, 0.0, 9);
        // Differences that a bf16 near 256 does not hold.
        call.x.data.iter_mut().for_each(|x| *x = DType::BF16.round(*x / 8.0));
        call.residual.iter_mut().for_each(|residual| residual.data.fill(256.0));
        let (y, sum) = call.run(&device);
        let rows = [0, 1].map(|row| call.row(row));
        for (row, expected) in rows.iter().enumerate() {
            assert_row_admitted(&expected.y, &y, row);
            assert_row_admitted(expected.sum.as_ref().unwrap(), sum.as_ref().unwrap(), row);
        }
        // The norm of what is stored would be far from that.
        let stored = |estimate: &Estimate| DType::BF16.round(estimate.value);
        call.x.data = rows.iter().flat_map(|row| row.sum.iter().flatten()).map(stored).collect();
        call.residual.iter_mut().for_each(|residual| residual.data.fill(0.0));
        let other = call.row(0).y;
        assert!(rows[0].y.iter().zip(&other).any(|(one, other)| !one.admits(other.value, DType::BF16)));
    }
}

#[test]
fn every_size_before_the_last_is_rows() {
    for device in devices() {
        let mut numbers = Numbers::new(1);
        let (x, weight) = (numbers.draw(&[2, 3, 4, 5], DType::F32, 1.0), numbers.draw(&[5], DType::F32, 1.0));
        let (x, weight) = (x.on(&device), weight.on(&device));
        let y = ops::layer_norm(&x, &weight, &Default::default()).unwrap();
        assert_eq!(y.shape(), [2, 3, 4, 5]);
        let flat = ops::layer_norm(&x.reshape(&[24, 5]).unwrap(), &weight, &Default::default()).unwrap();
        assert_eq!(y.to_f32().unwrap(), flat.to_f32().unwrap());
        let row = Tensor::zeros(&[5], DType::F32, &device).unwrap();
        assert_eq!(ops::rms_norm(&row, &weight, &Default::default()).unwrap().shape(), [5]);
        let none = Tensor::zeros(&[2, 0, 5], DType::F32, &device).unwrap();
        assert_eq!(ops::layer_norm(&none, &weight, &Default::default()).unwrap().shape(), [2, 0, 5]);
    }
}
