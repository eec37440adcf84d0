//! The CPU room on slices with a token stride: the numbers are those of contiguous tensors, and what lies between the
//! rows is neither read nor written.

mod equal_tensors;
mod gradients;
mod refused;
mod tables;

use lightspan::cpu::{self, Rows, RowsMut};
use lightspan::ops::AttentionKind;
use lightspan::problem::{
    AttentionProblem, Convolution, DynamicConvProblem, LightConvProblem, LinearProblem, SpanConvProblem,
};
use lightspan::{DType, Error, Sequences, Window};

use crate::support::Numbers;

const GAP: usize = 5;
const UNTOUCHED: f32 = 77.0;

/// Rows of `width` numbers, and the same with NaN between them.
struct Strided {
    width: usize,
    data: Vec<f32>,
    gaps: Vec<f32>,
}

impl Strided {
    fn draw(numbers: &mut Numbers, rows: usize, width: usize) -> Self {
        let values = numbers.draw(&[rows, width], DType::F32, 1.0);
        let data: Vec<f32> = values.data.iter().map(|&x| x as f32).collect();
        let gaps = data.chunks(width).flat_map(|row| row.iter().copied().chain([f32::NAN; GAP])).collect();
        Strided { width, data, gaps }
    }

    fn contiguous(&self) -> Rows<'_> {
        Rows::contiguous(&self.data[..])
    }

    fn strided(&self) -> Rows<'_> {
        Rows::strided(&self.gaps[..], self.width + GAP)
    }
}

/// Runs an operator on contiguous rows and on rows with gaps, and compares.
fn same_with_gaps(rows: usize, width: usize, run: impl Fn(bool, RowsMut<'_>)) {
    let mut plain = vec![0.0; rows * width];
    run(false, RowsMut::contiguous(&mut plain[..]));
    let mut gaps = vec![UNTOUCHED; rows * (width + GAP)];
    run(true, RowsMut::strided(&mut gaps[..], width + GAP));
    for (plain, row) in plain.chunks(width).zip(gaps.chunks(width + GAP)) {
        assert_eq!(plain, &row[..width]);
        assert_eq!(row[width..], [UNTOUCHED; GAP]);
    }
    assert!(plain.iter().any(|&y| y != 0.0));
}

const TOKENS: usize = 150;
const CHANNELS: usize = 24;

fn convolution() -> (Sequences, Convolution) {
    let sequences = Sequences::packed(&[0, 100, 100, TOKENS]).unwrap();
    let window = Window::same(9).unwrap();
    let conv = Convolution::new(sequences.shape(), CHANNELS, 3, window, DType::F32).unwrap();
    (sequences, conv)
}

#[test]
fn light_conv() {
    let (sequences, conv) = convolution();
    let mut numbers = Numbers::new(1);
    let x = Strided::draw(&mut numbers, TOKENS, CHANNELS);
    let weight = Strided::draw(&mut numbers, 3, 9);
    let operator = cpu::LightConv::new(LightConvProblem::new(conv));
    same_with_gaps(TOKENS, CHANNELS, |gaps, y| {
        let args = cpu::LightConvArgs {
            sequences: &sequences,
            x: if gaps { x.strided() } else { x.contiguous() },
            weight: (&weight.data[..]).into(),
            bias: None,
            history: None,
            seed: None,
            y,
        };
        operator.run(args, &mut vec![f32::NAN; operator.scratch_len()]).unwrap();
    });
}

#[test]
fn dynamic_conv() {
    let (sequences, conv) = convolution();
    let mut numbers = Numbers::new(2);
    let x = Strided::draw(&mut numbers, TOKENS, CHANNELS);
    let query = Strided::draw(&mut numbers, TOKENS, 10);
    let weight = Strided::draw(&mut numbers, 27, 10);
    let problem = DynamicConvProblem::generated(conv).unwrap().with_query(10, DType::F32).unwrap();
    let operator = cpu::DynamicConv::new(problem);
    same_with_gaps(TOKENS, CHANNELS, |gaps, y| {
        let args = cpu::DynamicConvArgs {
            sequences: &sequences,
            x: if gaps { x.strided() } else { x.contiguous() },
            taps: cpu::TapArgs::Generated {
                weight: (&weight.data[..]).into(),
                weight_bias: None,
                query: Some(if gaps { query.strided() } else { query.contiguous() }),
            },
            bias: None,
            history: None,
            seed: None,
            y,
        };
        operator.run(args, &mut vec![f32::NAN; operator.scratch_len()]).unwrap();
    });
    let logits = Strided::draw(&mut numbers, TOKENS, 27);
    let operator = cpu::DynamicConv::new(DynamicConvProblem::given(conv).unwrap());
    same_with_gaps(TOKENS, CHANNELS, |gaps, y| {
        let args = cpu::DynamicConvArgs {
            sequences: &sequences,
            x: if gaps { x.strided() } else { x.contiguous() },
            taps: cpu::TapArgs::Given { logits: if gaps { logits.strided() } else { logits.contiguous() } },
            bias: None,
            history: None,
            seed: None,
            y,
        };
        operator.run(args, &mut vec![f32::NAN; operator.scratch_len()]).unwrap();
    });
}

#[test]
fn span_conv() {
    let (sequences, conv) = convolution();
    let mut numbers = Numbers::new(3);
    let x = Strided::draw(&mut numbers, TOKENS, 13);
    let [query, value] = [0, 1].map(|_| Strided::draw(&mut numbers, TOKENS, CHANNELS));
    let [depthwise, pointwise, weight] = [(13, 9), (CHANNELS, 13), (27, CHANNELS)]
        .map(|(rows, columns)| Strided::draw(&mut numbers, rows, columns).data);
    let operator = cpu::SpanConv::new(SpanConvProblem::new(13, conv).unwrap());
    same_with_gaps(TOKENS, CHANNELS, |gaps, y| {
        let args = cpu::SpanConvArgs {
            sequences: &sequences,
            x: if gaps { x.strided() } else { x.contiguous() },
            query: if gaps { query.strided() } else { query.contiguous() },
            value: if gaps { value.strided() } else { value.contiguous() },
            depthwise: (&depthwise[..]).into(),
            pointwise: (&pointwise[..]).into(),
            key_bias: None,
            weight: (&weight[..]).into(),
            weight_bias: None,
            bias: None,
            history: None,
            value_history: None,
            seed: None,
            y,
        };
        operator.run(args, &mut vec![f32::NAN; operator.scratch_len()]).unwrap();
    });
}

#[test]
fn linear() {
    let mut numbers = Numbers::new(4);
    let x = Strided::draw(&mut numbers, TOKENS, CHANNELS);
    let weight = Strided::draw(&mut numbers, 11, CHANNELS);
    let operator = cpu::Linear::new(LinearProblem::new(TOKENS, CHANNELS, 11, DType::F32).unwrap());
    same_with_gaps(TOKENS, 11, |gaps, y| {
        let args = cpu::LinearArgs {
            x: if gaps { x.strided() } else { x.contiguous() },
            weight: (&weight.data[..]).into(),
            bias: None,
            residual: None,
            y,
        };
        operator.run(args, &mut vec![f32::NAN; operator.scratch_len()]).unwrap();
    });
}

#[test]
fn attention() {
    let (sequences, _) = convolution();
    let mut numbers = Numbers::new(5);
    let [q, k, v] = [0, 1, 2].map(|_| Strided::draw(&mut numbers, TOKENS, CHANNELS));
    let problem =
        AttentionProblem::new(sequences.shape(), sequences.shape(), 3, CHANNELS / 3, DType::F32).unwrap();
    for kind in [AttentionKind::Naive, AttentionKind::Fused] {
        let operator = cpu::Attention::new(problem, kind);
        same_with_gaps(TOKENS, CHANNELS, |gaps, y| {
            let rows = |strided| if gaps { Strided::strided(strided) } else { Strided::contiguous(strided) };
            let args = cpu::AttentionArgs {
                queries: &sequences,
                keys: &sequences,
                q: rows(&q),
                k: rows(&k),
                v: rows(&v),
                y,
            };
            operator.run(args, &mut vec![f32::NAN; operator.scratch_len(&sequences, &sequences)]).unwrap();
        });
    }
}

#[test]
fn too_little_is_an_error_and_writes_nothing() {
    let (sequences, conv) = convolution();
    let operator = cpu::LightConv::new(LightConvProblem::new(conv));
    let (x, weight) = (vec![1.0f32; TOKENS * (CHANNELS + GAP)], [0.0f32; 27]);
    let run = |x: &[f32], stride: usize, out: usize, scratch: usize| {
        let mut y = vec![UNTOUCHED; out];
        let args = cpu::LightConvArgs {
            sequences: &sequences,
            x: Rows::strided(x, stride),
            weight: (&weight[..]).into(),
            bias: None,
            history: None,
            seed: None,
            y: RowsMut::contiguous(&mut y[..]),
        };
        let result = operator.run(args, &mut vec![0.0; scratch]);
        assert!(result.is_ok() || y.iter().all(|&y| y == UNTOUCHED));
        result
    };
    let (all, scratch, stride) = (TOKENS * CHANNELS, operator.scratch_len(), CHANNELS + GAP);
    let needed = (TOKENS - 1) * stride + CHANNELS;
    assert_eq!(run(&x, stride, all, scratch), Ok(()));
    assert_eq!(run(&x[..needed], stride, all, scratch), Ok(()));
    let length = |tensor, expected, got| Err(Error::Length { tensor, expected, got });
    assert_eq!(run(&x[..needed - 1], stride, all, scratch), length("x", needed, needed - 1));
    assert_eq!(run(&x, stride, all - 1, scratch), length("y", all, all - 1));
    assert_eq!(
        run(&x, CHANNELS - 1, all, scratch),
        Err(Error::Stride { tensor: "x", stride: CHANNELS - 1, channels: CHANNELS })
    );
    assert_eq!(
        run(&x, stride, all, scratch - 1),
        Err(Error::Scratch { expected: scratch, got: scratch - 1 })
    );
}
