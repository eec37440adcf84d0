use std::fmt;

use lightspan::ops::{self, EmbeddingOptions, Positions, Sinusoids};
use lightspan::problem::EmbeddingProblem;
use lightspan::reference::{self, EmbeddingInputs, Estimate};
use lightspan::{DType, Device, Error, Sequences, Tensor, Tokens};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{Numbers, Values, assert_admitted, config, devices, dtypes, overwritten, sequences};

/// A drawn call with its numbers.
#[derive(Clone)]
pub struct Call {
    pub problem: EmbeddingProblem,
    pub sequences: Option<Sequences>,
    /// Of the tokens.
    pub shape: Vec<usize>,
    pub tokens: Vec<u32>,
    pub table: Values,
    pub positions: Option<Values>,
    pub type_ids: Option<Vec<u32>>,
    pub types: Option<Values>,
}

/// Without the numbers.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?} with ids {:?}", self.problem, self.sequences, self.tokens)
    }
}

impl Call {
    /// Numbers for a problem; rows of the tables that no token stands for are NaN.
    pub fn draw(problem: EmbeddingProblem, sequences: Option<Sequences>, shape: &[usize], seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let mut ids = |rows: usize| numbers.ids(problem.tokens(), rows as u32);
        let tokens = ids(problem.vocabulary());
        let type_ids = problem.types().map(&mut ids);
        let mut table = |rows: usize| numbers.draw(&[rows, problem.channels()], problem.parameters(), 2.0);
        let mut call = Call {
            problem,
            sequences,
            shape: shape.to_vec(),
            table: table(problem.vocabulary()),
            positions: problem.positions().map(&mut table),
            types: problem.types().map(&mut table),
            tokens,
            type_ids,
        };
        let rows = call.rows();
        let used: Vec<_> = rows.iter().map(|&(row, _)| call.tokens[row] as usize).collect();
        keep(&mut call.table, &used);
        if let Some(positions) = &mut call.positions {
            let used: Vec<_> = rows.iter().map(|&(_, position)| problem.first() + position).collect();
            keep(positions, &used);
        }
        if let (Some(types), Some(ids)) = (&mut call.types, &call.type_ids) {
            let used: Vec<_> = rows.iter().map(|&(row, _)| ids[row] as usize).collect();
            keep(types, &used);
        }
        call
    }

    /// Rows that are tokens of a sequence, and their positions.
    fn rows(&self) -> Vec<(usize, usize)> {
        match &self.sequences {
            None => (0..self.problem.tokens()).map(|row| (row, 0)).collect(),
            Some(sequences) => {
                let of = |s: &lightspan::Sequence| {
                    let (first, past) = (s.first, s.past);
                    (0..s.length).map(move |t| (first + t, past + t))
                };
                sequences.as_slice().iter().flat_map(of).collect()
            }
        }
    }

    /// Whether tables have rows for a token.
    fn is_known(&self, row: usize, position: usize) -> bool {
        let type_id = self.type_ids.as_ref().map_or(0, |ids| ids[row] as usize);
        (self.tokens[row] as usize) < self.problem.vocabulary()
            && self.problem.types().is_none_or(|rows| type_id < rows)
            && self.problem.positions().is_none_or(|rows| self.problem.first() + position < rows)
    }

    pub fn expected(&self) -> Vec<Estimate> {
        let inputs = EmbeddingInputs {
            tokens: &self.tokens,
            table: &self.table.data,
            positions: self.positions.as_ref().map(|positions| &positions.data[..]),
            type_ids: self.type_ids.as_deref(),
            types: self.types.as_ref().map(|types| &types.data[..]),
        };
        let channels = self.problem.channels();
        let mut all = vec![Estimate::exact(0.0); self.problem.tokens() * channels];
        for (row, position) in self.rows() {
            let y = &mut all[row * channels..][..channels];
            if self.is_known(row, position) {
                y.copy_from_slice(&reference::embedding(&self.problem, inputs, row, position));
            } else {
                y.fill(Estimate::exact(f64::NAN));
            }
        }
        all
    }

    pub fn run(&self, device: &Device) -> Tensor {
        let on = |values: &Option<Values>| values.as_ref().map(|values| values.on(device));
        let ids = |ids: &[u32]| Tokens::from_slice(ids, &self.shape, device).unwrap();
        let (tokens, table) = (ids(&self.tokens), self.table.on(device));
        let (positions, types) = (on(&self.positions), on(&self.types));
        let type_ids = self.type_ids.as_deref().map(ids);
        let options = EmbeddingOptions {
            scale: self.problem.scale(),
            positions: positions.as_ref().map(|table| Positions { table, first: self.problem.first() }),
            types: type_ids.as_ref().zip(types.as_ref()),
            sequences: self.sequences.as_ref(),
            dtype: Some(self.problem.dtype()),
        };
        let y = ops::embedding(&tokens, &table, &options).unwrap();
        overwritten(y, |y| ops::embedding_into(y, &tokens, &table, &options))
    }

    /// The same with ids past their tables, and positions: what only own-buffer calls on a GPU can meet.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub fn with_wrong_ids(mut self, seed: u64) -> Self {
        let mut dice = Numbers::new(seed);
        let mut spoil = |ids: &mut [u32], rows: usize| {
            let wrong = [rows as u32, rows as u32 + 1, 1 << 31, u32::MAX];
            let dice = dice.ids(ids.len(), 24);
            for (id, dice) in ids.iter_mut().zip(dice) {
                *id = wrong.get(dice as usize).copied().unwrap_or(*id);
            }
        };
        spoil(&mut self.tokens, self.problem.vocabulary());
        if let (Some(ids), Some(rows)) = (&mut self.type_ids, self.problem.types()) {
            spoil(ids, rows);
        }
        if let Some(rows) = self.problem.positions() {
            let further = self.problem.first() + (seed % 4) as usize;
            self.problem = self.problem.with_positions(rows, further).unwrap();
        }
        self
    }

    /// The same with other ids in the padding, which rooms do not read.
    pub fn with_wrong_padding(mut self) -> Self {
        for sequence in self.sequences.iter().flat_map(Sequences::as_slice) {
            let padding =
                sequence.first + sequence.length..sequence.first + sequence.length + sequence.padding;
            self.tokens[padding.clone()].fill(u32::MAX);
            self.type_ids.iter_mut().for_each(|ids| ids[padding.clone()].fill(u32::MAX));
        }
        self
    }
}

/// Makes NaN of all rows but those that are used.
fn keep(table: &mut Values, used: &[usize]) {
    let channels = table.shape[1];
    for (row, numbers) in table.data.chunks_mut(channels).enumerate() {
        if !used.contains(&row) {
            numbers.fill(f64::NAN);
        }
    }
}

/// What a call may have besides its table: rows of positions past those that are needed, the first of them, rows of types.
type Added = (Option<(usize, usize)>, Option<usize>);

fn added() -> impl Strategy<Value = Added> {
    (prop::option::of((0usize..4, 0usize..4)), prop::option::of(1usize..5))
}

fn scale() -> impl Strategy<Value = f32> {
    prop::sample::select(&[1.0f32, 1.0, 0.0, -0.5, 22.627_417][..])
}

/// Rows of every length up to some thousands: tables of every size, tokens in and out of sequences.
pub fn call() -> impl Strategy<Value = Call> {
    let channels = prop_oneof![
        4 => 1usize..70,
        2 => prop::sample::select(&[64usize, 128, 256, 512, 768, 1024][..]),
        1 => 1000usize..5000
    ];
    let tables = (prop_oneof![Just(1usize), 2usize..50], channels, dtypes(), scale());
    let grouped = (sequences(0..5, 0..20), vec(prop_oneof![Just(0usize), 0usize..30], 5)).prop_map(
        |(sequences, past)| {
            let past = &past[..sequences.shape().sequences()];
            Some(sequences.after(past).unwrap())
        },
    );
    let free = vec(0usize..6, 0..4).prop_map(|shape| (None, shape));
    let tokens = prop_oneof![
        3 => grouped.prop_map(|sequences| (sequences, vec![])),
        1 => free
    ];
    (tokens, tables, added(), any::<u64>()).prop_map(
        |(
            (sequences, shape),
            (vocabulary, channels, (dtype, parameters), scale),
            (positions, types),
            seed,
        )| {
            let (problem, shape) = match &sequences {
                None => (EmbeddingProblem::new(shape.iter().product(), vocabulary, channels, dtype), shape),
                Some(sequences) => {
                    let mut shape = sequences.shape().tensor(1);
                    shape.pop();
                    let problem =
                        EmbeddingProblem::of_sequences(sequences.shape(), vocabulary, channels, dtype);
                    (problem, shape)
                }
            };
            let problem =
                problem.and_then(|problem| problem.with_parameters(parameters)?.with_scale(scale)).unwrap();
            let problem = match (positions, &sequences) {
                (Some((more, first)), Some(sequences)) => {
                    let longest = sequences.gone_by().into_iter().max().unwrap_or(0);
                    problem.with_positions((first + longest + more).max(1), first).unwrap()
                }
                _ => problem,
            };
            let problem = types.map_or(Ok(problem), |rows| problem.with_types(rows)).unwrap();
            Call::draw(problem, sequences, &shape, seed)
        },
    )
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn equals_the_reference(call in call()) {
        let expected = call.expected();
        for device in devices() {
            assert_admitted(&expected, &call.run(&device))?;
        }
    }

    /// Tokens that are fed in two calls get the rows that they get in one.
    #[test]
    fn chunks_equal_the_whole(
        (batch, time) in (1usize..4, 1usize..30), cut in any::<prop::sample::Index>(), (dtype, _) in dtypes(),
        seed in any::<u64>()
    ) {
        let (cut, channels) = (cut.index(time + 1), 6);
        let whole = Sequences::batch(batch, time).unwrap();
        let problem = EmbeddingProblem::of_sequences(whole.shape(), 9, channels, dtype)
            .and_then(|problem| problem.with_positions(time + 2, 2))
            .unwrap();
        let call = Call::draw(problem, None, &[batch, time], seed);
        let mut positions = call.positions.clone().unwrap();
        positions.data = Numbers::new(seed).draw(&positions.shape, dtype, 2.0).data;
        for device in devices() {
            let (table, positions) = (call.table.on(&device), positions.on(&device));
            let run = |from: usize, to: usize| {
                let ids: Vec<u32> = call.tokens.chunks(time).flat_map(|row| row[from..to].to_vec()).collect();
                let tokens = Tokens::from_slice(&ids, &[batch, to - from], &device).unwrap();
                let sequences = Sequences::batch(batch, to - from).unwrap().after(&vec![from; batch]).unwrap();
                let options = EmbeddingOptions {
                    positions: Some(Positions { table: &positions, first: 2 }),
                    sequences: Some(&sequences),
                    ..Default::default()
                };
                let y = ops::embedding(&tokens, &table, &options).unwrap().to_f32().unwrap();
                let rows = y.chunks(channels * (to - from).max(1)).map(|row| row.iter().map(|y| y.to_bits()).collect());
                rows.collect::<Vec<Vec<u32>>>()
            };
            let (first, second, whole) = (run(0, cut), run(cut, time), run(0, time));
            let join = |b: usize| -> Vec<u32> {
                let part = |rows: &Vec<Vec<u32>>| rows.get(b).cloned().unwrap_or_default();
                [part(&first), part(&second)].concat()
            };
            for (b, whole) in whole.iter().enumerate() {
                prop_assert_eq!(&join(b), whole);
            }
        }
    }
}

/// A million numbers in a row, and rows of one number.
#[test]
fn rows_of_any_size() {
    for device in devices() {
        for (rows, channels) in [(3, 1 << 20), (4000, 1), (2, 1_000_003)] {
            for dtype in DType::ALL {
                let data: Vec<f32> = (0..rows * channels).map(|i| (i % 251) as f32).collect();
                let table = Tensor::from_f32(&data, &[rows, channels], dtype, &device).unwrap();
                let ids: Vec<u32> = (0..rows as u32).rev().collect();
                let tokens = Tokens::from_slice(&ids, &[rows], &device).unwrap();
                let y = ops::embedding(&tokens, &table, &EmbeddingOptions::default()).unwrap();
                let expected: Vec<f32> = data.chunks(channels).rev().flatten().copied().collect();
                assert!(y.to_f32().unwrap() == expected, "{rows} rows of {channels} {dtype} on {device}");
            }
        }
    }
}

/// What is only moved keeps its bits: zeros their signs, and what is no number.
#[test]
fn moved_rows_keep_their_numbers() {
    for (device, dtype) in devices().iter().flat_map(|device| DType::ALL.map(|dtype| (device, dtype))) {
        let data = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 65504.0, 6.1e-5, 1.0];
        let table = Tensor::from_f32(&data, &[2, 4], dtype, device).unwrap();
        let tokens = Tokens::from_slice(&[1, 0], &[2], device).unwrap();
        let y = ops::embedding(&tokens, &table, &EmbeddingOptions::default()).unwrap().to_f32().unwrap();
        let table = table.to_f32().unwrap();
        for (y, x) in y.iter().zip(table[4..].iter().chain(&table[..4])) {
            assert!(
                y.to_bits() == x.to_bits() || y.is_nan() && x.is_nan(),
                "{y} for {x} of {dtype} on {device}"
            );
        }
    }
}

/// Ids of any 32 bits come back as they went, and know what they are below.
#[test]
fn tokens_are_kept() {
    for device in crate::support::devices() {
        // Some of these are NaN as numbers, signalling ones too.
        let ids = [0u32, 1, 0x7f80_0001, 0x7fc0_0001, 0xff80_0001, u32::MAX];
        let mut tokens = Tokens::from_slice(&ids, &[2, 3], &device).unwrap();
        assert_eq!((tokens.shape(), tokens.len(), tokens.is_empty()), (&[2, 3][..], 6, false));
        assert_eq!((tokens.to_vec().unwrap(), tokens.bound()), (ids.to_vec(), 1 << 32), "{device}");
        assert_eq!(tokens.device(), &device);
        tokens.write(&[5, 4, 3, 2, 1, 0]).unwrap();
        assert_eq!((tokens.to_vec().unwrap(), tokens.bound()), (vec![5, 4, 3, 2, 1, 0], 6));
        assert!(tokens.write(&[1]).is_err());
        assert_eq!(tokens.reshape(&[6, 1]).unwrap().shape(), [6, 1]);
        let zeros = Tokens::zeros(&[3], &device).unwrap();
        assert_eq!((zeros.to_vec().unwrap(), zeros.bound()), (vec![0; 3], 1));
        for none in [Tokens::from_slice(&[], &[0, 3], &device), Tokens::zeros(&[0, 3], &device)] {
            let none = none.unwrap();
            assert_eq!((none.bound(), none.is_empty(), none.to_vec().unwrap()), (0, true, vec![]));
        }
        let short = Tokens::from_slice(&[1], &[2], &device).map(drop);
        assert_eq!(short, Err(Error::Length { tensor: "the tensor", expected: 2, got: 1 }));
    }
}

/// fairseq's `SinusoidalPositionalEmbedding.get_embedding`, and the formula of the paper.
#[test]
fn sinusoidal_tables() {
    for channels in 1..12 {
        let half = channels / 2;
        let halves = ops::sinusoidal_positions(50, channels, Sinusoids::Halves).unwrap();
        let interleaved = ops::sinusoidal_positions(50, channels, Sinusoids::Interleaved).unwrap();
        assert_eq!((halves.len(), interleaved.len()), (50 * channels, 50 * channels));
        for (at, (&halves, &interleaved)) in halves.iter().zip(&interleaved).enumerate() {
            let (p, c) = ((at / channels) as f64, at % channels);
            let step = if half > 1 { 10_000f64.ln() / (half as f64 - 1.0) } else { 0.0 };
            let angle = |i: usize| p * (-(i as f64) * step).exp();
            let expected = match c {
                c if c < half => angle(c).sin(),
                c if c < 2 * half => angle(c - half).cos(),
                _ => 0.0,
            };
            assert!((f64::from(halves) - expected).abs() < 1e-7, "{c} of {channels} at {p}: {halves}");
            let angle = p / 10_000f64.powf((c / 2 * 2) as f64 / channels as f64);
            let expected = if c % 2 == 0 { angle.sin() } else { angle.cos() };
            assert!(
                (f64::from(interleaved) - expected).abs() < 1e-7,
                "{c} of {channels} at {p}: {interleaved}"
            );
        }
    }
    assert!(ops::sinusoidal_positions(3, 0, Sinusoids::Halves).unwrap().is_empty());
    assert_eq!(
        ops::sinusoidal_positions(usize::MAX, 2, Sinusoids::Halves),
        Err(Error::TooLarge { what: "positions", sizes: vec![usize::MAX, 2] })
    );
}
