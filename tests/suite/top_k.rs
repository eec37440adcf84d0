use lightspan::ops::{self, TopKOptions};
use lightspan::problem::TopKProblem;
use lightspan::reference::{self, Ranked};
use lightspan::{DType, Device, Tensor, Tokens};
use proptest::prelude::*;

use crate::support::{Numbers, Values, config, devices};

/// A drawn call with its numbers.
#[derive(Clone, Debug)]
pub struct Call {
    pub problem: TopKProblem,
    pub x: Values,
}

/// What rows hold besides numbers that all differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Numbers,
    /// Few that differ.
    Equal,
    /// The same, and much that is no number, and zeros of both signs.
    Special,
    /// Numbers and minus infinity, as where tokens are masked.
    Masked,
}

const KINDS: [Kind; 4] = [Kind::Numbers, Kind::Equal, Kind::Special, Kind::Masked];

const SPECIAL: [f64; 5] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0];

impl Call {
    pub fn draw(problem: TopKProblem, kind: Kind, seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let mut x = numbers.draw(&[problem.rows(), problem.vocabulary()], problem.dtype(), 8.0);
        let dice = numbers.ids(x.data.len(), 20);
        for (x, dice) in x.data.iter_mut().zip(dice) {
            match kind {
                Kind::Numbers => {}
                Kind::Equal => *x = (*x / 3.0).round(),
                Kind::Special => *x = SPECIAL.get(dice as usize).copied().unwrap_or((*x / 3.0).round()),
                Kind::Masked if dice < 15 => *x = f64::NEG_INFINITY,
                Kind::Masked => {}
            }
        }
        Call { problem, x }
    }

    pub fn expected(&self) -> Vec<Ranked> {
        (0..self.problem.rows()).flat_map(|row| reference::top_k(&self.problem, &self.x.data, row)).collect()
    }

    /// Values and tokens, which the forms that write give too, over stale ones.
    pub fn run(&self, device: &Device) -> (Tensor, Tokens) {
        let problem = &self.problem;
        let (x, k) = (self.x.on(device), problem.k());
        let options = TopKOptions { log_softmax: problem.has_log_softmax() };
        let (values, tokens) = ops::top_k(&x, k, &options).unwrap();
        assert_eq!((values.shape(), tokens.shape()), (&[problem.rows(), k][..], &[problem.rows(), k][..]));
        let len = tokens.len();
        let mut again = Tokens::from_slice(&vec![u32::MAX; len], tokens.shape(), device).unwrap();
        let values = crate::support::overwritten(values, |values| {
            ops::top_k_into(values, &mut again, &x, k, &options)
        });
        assert_eq!(tokens.to_vec().unwrap(), again.to_vec().unwrap());
        for tokens in [&tokens, &again] {
            assert_eq!(tokens.bound(), problem.vocabulary() as u64);
        }
        (values, tokens)
    }

    /// Fails unless every device gives what the reference expects.
    fn check(&self) -> Result<(), TestCaseError> {
        let expected = self.expected();
        for device in devices() {
            let (values, tokens) = self.run(&device);
            assert_ranked(&expected, &values, &tokens)?;
            let x = self.x.on(&device);
            let first: Vec<u32> = expected.chunks(self.problem.k()).map(|row| row[0].index).collect();
            let mut tokens = ops::argmax(&x).unwrap();
            prop_assert_eq!(tokens.shape(), &[self.problem.rows()]);
            prop_assert_eq!(tokens.to_vec().unwrap(), &first[..]);
            tokens.write(&vec![u32::MAX; first.len()]).unwrap();
            ops::argmax_into(&mut tokens, &x).unwrap();
            prop_assert_eq!(
                (tokens.to_vec().unwrap(), tokens.bound()),
                (first, self.problem.vocabulary() as u64)
            );
        }
        Ok(())
    }
}

/// Fails unless tokens are exactly those expected, and values within their bounds.
pub fn assert_ranked(expected: &[Ranked], values: &Tensor, tokens: &Tokens) -> Result<(), TestCaseError> {
    let indices: Vec<u32> = expected.iter().map(|ranked| ranked.index).collect();
    prop_assert_eq!(tokens.to_vec().unwrap(), indices, "tokens on {}", tokens.device());
    let estimates: Vec<_> = expected.iter().map(|ranked| ranked.value).collect();
    crate::support::assert_admitted(&estimates, values)
}

/// Rows of every length up to some thousands, of some, one or all numbers.
pub fn problem() -> impl Strategy<Value = TopKProblem> {
    let short = (0usize..12, 1usize..40, 1usize..=40);
    let middle = (0usize..5, 200usize..1100, 1usize..12);
    let long = (1usize..3, 2000usize..9000, 1usize..6);
    let sizes = prop_oneof![4 => short, 2 => middle, 1 => long];
    (sizes, prop::sample::select(&DType::ALL[..]), any::<bool>()).prop_map(
        |((rows, vocabulary, k), dtype, log_softmax)| {
            TopKProblem::new(rows, vocabulary, k.min(vocabulary), dtype)
                .unwrap()
                .with_log_softmax(log_softmax)
        },
    )
}

pub fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(&KINDS[..])
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn equals_the_reference(problem in problem(), kind in kind(), seed in any::<u64>()) {
        Call::draw(problem, kind, seed).check()?;
    }
}

/// Every number of 16 bits in one row, the largest first, beside what a comparison sort of them gives: subnormal numbers
/// rank too.
#[test]
fn all_numbers_of_16_bits() {
    for (device, dtype) in
        devices().iter().flat_map(|device| [DType::F16, DType::BF16].map(|dtype| (device, dtype)))
    {
        let number = |bits: u16| match dtype {
            DType::F16 => lightspan::f16::from_bits(bits).to_f64(),
            _ => lightspan::bf16::from_bits(bits).to_f64(),
        };
        // 64 rows whose numbers lie far apart.
        let data: Vec<f64> =
            (0..64u16).flat_map(|row| (0..1024).map(move |i| number(i * 64 + row))).collect();
        let problem = TopKProblem::new(64, 1024, 40, dtype).unwrap();
        let call = Call { problem, x: Values { data, shape: vec![64, 1024], dtype } };
        let (_, tokens) = call.run(device);
        let indices: Vec<u32> = call.expected().iter().map(|ranked| ranked.index).collect();
        assert_eq!(tokens.to_vec().unwrap(), indices, "{dtype} on {device}");
    }
}

/// Many numbers in a row; a sum of very many equal terms, where roundings do not cancel.
#[test]
fn long_rows() {
    for dtype in DType::ALL {
        let problem = TopKProblem::new(1, 150_001, 3, dtype).unwrap().with_log_softmax(true);
        let mut call = Call::draw(problem, Kind::Numbers, 5);
        call.check().unwrap();
        // exp(-0.1) is no f32.
        call.x.data.fill(dtype.round(-0.1));
        (call.x.data[70_000], call.x.data[150_000]) = (0.0, 0.0);
        call.check().unwrap();
    }
}

/// Rows that have no softmax say so, and others beside them are as they are.
#[test]
fn rows_without_a_softmax() {
    for device in devices() {
        let inf = f32::INFINITY;
        let x = [[1.0, f32::NAN, 2.0], [1.0, inf, 2.0], [-inf, -inf, -inf], [0.0, -inf, 0.0]].concat();
        let x = Tensor::from_slice(&x, &[4, 3], &device).unwrap();
        let (values, tokens) = ops::top_k(&x, 3, &TopKOptions { log_softmax: true }).unwrap();
        let values = values.to_f32().unwrap();
        assert!(values[..9].iter().all(|value| value.is_nan()), "{values:?} on {device}");
        assert!(values[9..11].iter().all(|value| (value + 2f32.ln()).abs() < 1e-6), "{values:?} on {device}");
        assert_eq!(values[11], -inf);
        assert_eq!(tokens.to_vec().unwrap(), [1, 2, 0, 1, 2, 0, 0, 1, 2, 0, 2, 1]);
        let (values, _) = ops::top_k(&x, 3, &TopKOptions::default()).unwrap();
        let values = values.to_f32().unwrap();
        assert!(values[0].is_nan());
        assert_eq!(values[1..], [2.0, 1.0, inf, 2.0, 1.0, -inf, -inf, -inf, 0.0, 0.0, -inf]);
    }
}

/// Tokens that an operator made are taken by an embedding, which knows that all of them are in its table.
#[test]
fn tokens_are_embedded_again() {
    for device in devices() {
        let x = Tensor::from_slice(&[0.0f32, 3.0, 1.0, 5.0, 3.0, 4.0], &[2, 3], &device).unwrap();
        let (_, tokens) = ops::top_k(&x, 2, &TopKOptions::default()).unwrap();
        let table = Tensor::from_slice(&[10.0f32, 11.0, 12.0], &[3, 1], &device).unwrap();
        let y = ops::embedding(&tokens, &table, &Default::default()).unwrap();
        assert_eq!((y.shape(), y.to_f32().unwrap()), (&[2, 2, 1][..], vec![11.0, 12.0, 10.0, 12.0]));
        let short = Tensor::from_slice(&[10.0f32, 11.0], &[2, 1], &device).unwrap();
        let error = lightspan::Error::IdPastTable { ids: "tokens", bound: 3, table: "table", rows: 2 };
        assert_eq!(ops::embedding(&tokens, &short, &Default::default()).map(drop), Err(error));
    }
}
