//! Embeddings and the largest numbers of rows on memory of one's own: the bits that they give on tensors, and what each wrong
//! argument is answered.

use lightspan::cpu::{self, Rows, RowsMut};
use lightspan::problem::{EmbeddingProblem, TopKProblem};
use lightspan::{DType, Device, Error, Sequences};
use proptest::prelude::*;

use crate::own_buffers::UNTOUCHED;
use crate::own_buffers::equal_tensors::{Slack, scratch};
use crate::support::{config, each};
use crate::{embedding, top_k};

use DType::{F16, F32};

fn slack() -> impl Strategy<Value = Slack> {
    (0usize..4).prop_map(|gap| Slack { gap, extra: 0 })
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn embeddings(call in embedding::call(), slack in slack()) {
        let (problem, y) = (call.problem, call.run(&Device::cpu()));
        let call = call.with_wrong_padding();
        let rows = |values| slack.rows(values, problem.channels());
        let (table, stride) = rows(&call.table);
        let (positions, types) = (call.positions.as_ref().map(rows), call.types.as_ref().map(rows));
        slack.same(&y, problem.channels(), |y| {
            cpu::Embedding::new(problem).run(cpu::EmbeddingArgs {
                sequences: call.sequences.as_ref(),
                tokens: &call.tokens,
                table: table.rows(stride),
                positions: positions.as_ref().map(|(table, stride)| table.rows(*stride)),
                type_ids: call.type_ids.as_deref(),
                types: types.as_ref().map(|(table, stride)| table.rows(*stride)),
                y,
            })
        })?;
    }

    #[test]
    fn largest_numbers(
        problem in top_k::problem(), wanted in any::<bool>(), kind in top_k::kind(), seed in any::<u64>(), slack in slack()
    ) {
        let call = top_k::Call::draw(problem, kind, seed);
        let (values, expected) = call.run(&Device::cpu());
        let problem = problem.with_values(wanted);
        let (x, stride) = slack.rows(&call.x, problem.vocabulary());
        let mut tokens = vec![7; expected.len() + 1];
        let mut run = |values: Option<RowsMut<'_>>| {
            let operator = cpu::TopK::new(problem);
            let args = cpu::TopKArgs { x: x.rows(stride), values, tokens: &mut tokens };
            operator.run(args, &mut scratch(operator.scratch_len()))
        };
        if wanted {
            slack.same(&values, problem.k(), |values| run(Some(values)))?;
        } else {
            run(None).unwrap();
        }
        let mut expected = expected.to_vec().unwrap();
        expected.push(7);
        prop_assert_eq!(tokens, expected);
    }
}

const ONES: [f32; 100] = [1.0; 100];

fn short(tensor: &'static str, expected: usize) -> Error {
    Error::Length { tensor, expected, got: expected - 1 }
}

fn rows(len: usize) -> Rows<'static> {
    Rows::contiguous(&ONES[..len])
}

#[test]
fn embeddings_refuse() {
    let sequences = Sequences::padded(3, &[3, 1]).unwrap();
    let (later, other) =
        (sequences.clone().after(&[0, 6]).unwrap(), Sequences::padded(2, &[1, 1, 1]).unwrap());
    let full = EmbeddingProblem::of_sequences(sequences.shape(), 4, 5, F32)
        .and_then(|full| full.with_positions(6, 1)?.with_types(2))
        .unwrap();
    let plain = EmbeddingProblem::new(6, 4, 5, F32).unwrap();
    let half = lightspan::f16::ONE;
    let halves = [half; 100];
    let mut y = [UNTOUCHED; 30];
    // The ids of padding are not looked at.
    let (ids, types) = ([0, 1, 3, 2, 99, u32::MAX], [1, 1, 0, 0, 99, u32::MAX]);
    let mut run = |problem, change: &dyn Fn(&mut cpu::EmbeddingArgs<'_>)| {
        let mut args = cpu::EmbeddingArgs {
            sequences: Some(&sequences),
            tokens: &ids,
            table: rows(20),
            positions: Some(rows(30)),
            type_ids: Some(&types),
            types: Some(rows(10)),
            y: RowsMut::contiguous(&mut y[..]),
        };
        change(&mut args);
        let result = cpu::Embedding::new(problem).run(args);
        if result.is_err() {
            assert!(y.iter().all(|&y| y == UNTOUCHED));
        }
        result
    };
    let missing = |tensor| Error::Missing { tensor };
    let surplus = |tensor| Error::Surplus { tensor };
    let dtype = |tensor| Error::DType { tensor, expected: vec![F32], got: F16 };
    each([
        (run(full, &|args| args.sequences = None), missing("sequences")),
        (run(full, &|args| args.positions = None), missing("positions")),
        (run(full, &|args| args.type_ids = None), missing("type ids")),
        (run(full, &|args| args.types = None), missing("types")),
        (run(plain, &|_| ()), surplus("sequences")),
        (run(full, &|args| args.tokens = &args.tokens[..5]), short("tokens", 6)),
        (run(full, &|args| args.type_ids = Some(&[0; 5])), short("type ids", 6)),
        (run(full, &|args| args.table = rows(19)), short("table", 20)),
        (run(full, &|args| args.positions = Some(rows(29))), short("positions", 30)),
        (run(full, &|args| args.types = Some(rows(9))), short("types", 10)),
        (run(full, &|args| args.table = Rows::contiguous(&[lightspan::f16::ONE; 100][..])), dtype("table")),
        (
            run(full, &|args| args.table = Rows::strided(&ONES[..], 4)),
            Error::Stride { tensor: "table", stride: 4, channels: 5 },
        ),
        (
            run(full, &|args| args.tokens = &[0, 1, 4, 2, 0, 0]),
            Error::IdPastTable { ids: "tokens", bound: 5, table: "table", rows: 4 },
        ),
        (
            run(full, &|args| args.type_ids = Some(&[0, 1, 0, u32::MAX, 0, 0])),
            Error::IdPastTable { ids: "type ids", bound: 1 << 32, table: "types", rows: 2 },
        ),
    ]);
    let wrong = |sequences: &Sequences| {
        let mut y = [UNTOUCHED; 30];
        let args = cpu::EmbeddingArgs {
            sequences: Some(sequences),
            tokens: &ids,
            table: rows(20),
            positions: Some(rows(30)),
            type_ids: Some(&types),
            types: Some(rows(10)),
            y: RowsMut::contiguous(&mut y[..]),
        };
        cpu::Embedding::new(full).run(args)
    };
    each([
        (wrong(&later), Error::PositionPastTable { sequence: 1, position: 7, rows: 6 }),
        (
            wrong(&other),
            Error::Sequences { expected: sequences.shape().to_string(), got: other.shape().to_string() },
        ),
    ]);
    let plainly = |y: RowsMut<'_>| {
        cpu::Embedding::new(plain).run(cpu::EmbeddingArgs {
            sequences: None,
            tokens: &[0; 6],
            table: rows(20),
            positions: None,
            type_ids: None,
            types: None,
            y,
        })
    };
    let mut y = [UNTOUCHED; 30];
    let mut narrow = halves;
    each([
        (plainly(RowsMut::contiguous(&mut y[..29])), short("y", 30)),
        (plainly(RowsMut::contiguous(&mut narrow[..])), dtype("y")),
        (plainly(RowsMut::strided(&mut y[..], 4)), Error::Stride { tensor: "y", stride: 4, channels: 5 }),
    ]);
    assert!(y.iter().all(|&y| y == UNTOUCHED) && narrow == halves);
    assert_eq!(plainly(RowsMut::contiguous(&mut y[..])), Ok(()));
    assert_eq!(y, [1.0; 30]);
}

#[test]
fn largest_numbers_refuse() {
    let problem = TopKProblem::new(3, 5, 2, F32).unwrap();
    let run = |problem, x, values: Option<usize>, tokens: usize, missing: usize| {
        let (mut held, mut ids) = ([UNTOUCHED; 6], [77; 6]);
        let operator = cpu::TopK::new(problem);
        let values = values.map(|len| RowsMut::contiguous(&mut held[..len]));
        let args = cpu::TopKArgs { x, values, tokens: &mut ids[..tokens] };
        let result = operator.run(args, &mut scratch(operator.scratch_len() - missing));
        if result.is_err() {
            assert!(held == [UNTOUCHED; 6] && ids == [77; 6]);
        }
        result
    };
    let expected = cpu::TopK::new(problem).scratch_len();
    each([
        (run(problem, rows(14), Some(6), 6, 0), short("x", 15)),
        (run(problem, rows(15), Some(5), 6, 0), short("values", 6)),
        (run(problem, rows(15), Some(6), 5, 0), short("tokens", 6)),
        (run(problem, rows(15), None, 6, 0), Error::Missing { tensor: "values" }),
        (run(problem.with_values(false), rows(15), Some(6), 6, 0), Error::Surplus { tensor: "values" }),
        (run(problem, rows(15), Some(6), 6, 1), Error::Scratch { expected, got: expected - 1 }),
    ]);
    assert_eq!(run(problem, rows(15), Some(6), 6, 0), Ok(()));
}
