//! What embeddings and the largest numbers of rows refuse.

use lightspan::ops::{self, EmbeddingOptions, Positions, TopKOptions};
use lightspan::{Device, Error, Result, Sequences, Tensor, Tokens};

use crate::bad_input::{any_shape, dtype, shape, zeros};
use crate::support::{devices, each};

use lightspan::DType::{BF16, F16, F32};

fn ids<const N: usize>(ids: &[u32], shape: [usize; N]) -> Tokens {
    Tokens::from_slice(ids, &shape, &Device::cpu()).unwrap()
}

#[test]
fn embedding() {
    let (tokens, table) = (ids(&[3, 0, 1, 2, 3, 0], [2, 3]), zeros([4, 5], F16));
    let plain = EmbeddingOptions::default();
    let run = |tokens: &Tokens, table: &Tensor, options: EmbeddingOptions<'_>| {
        ops::embedding(tokens, table, &options).map(drop)
    };
    let table_of = |rows, columns, dtype| zeros([rows, columns], dtype);
    let at = |table, first| EmbeddingOptions { positions: Some(Positions { table, first }), ..plain };
    let of = |ids, table| EmbeddingOptions { types: Some((ids, table)), ..plain };
    let within = |sequences| EmbeddingOptions { sequences: Some(sequences), ..plain };
    let sequences = Sequences::padded(3, &[3, 0]).unwrap();
    let packed = Sequences::packed(&[0, 4, 6]).unwrap();
    let past = |ids, bound, table, rows| Error::IdPastTable { ids, bound, table, rows };
    let types = ids(&[0, 1, 2, 0, 1, 2], [2, 3]);
    each([
        (run(&tokens, &zeros([4], F16), plain), any_shape("table", [None, None], [4])),
        (run(&tokens, &zeros([0, 5], F16), plain), Error::ZeroSize { what: "vocabulary" }),
        (run(&tokens, &zeros([4, 0], F16), plain), Error::ZeroSize { what: "channels" }),
        (run(&tokens, &zeros([3, 5], F16), plain), past("tokens", 4, "table", 3)),
        (
            run(&tokens, &table, EmbeddingOptions { dtype: Some(BF16), ..plain }),
            Error::DType { tensor: "table", expected: vec![BF16, F32], got: F16 },
        ),
        (
            run(&tokens, &table, EmbeddingOptions { scale: f32::NEG_INFINITY, ..plain }),
            Error::NotFinite { what: "scale", got: f32::NEG_INFINITY },
        ),
        (run(&tokens, &table, within(&packed)), shape("tokens", [6], [2, 3])),
        (run(&ids(&[0; 6], [6]), &table, within(&sequences)), shape("tokens", [2, 3], [6])),
        (
            run(&ids(&[0; 6], [6]), &table, at(&table_of(9, 5, F16), 0)),
            any_shape("tokens", [None, None], [6]),
        ),
        (run(&tokens, &table, at(&zeros([5], F16), 0)), any_shape("positions", [None, None], [5])),
        (run(&tokens, &table, at(&table_of(9, 4, F16), 0)), shape("positions", [9, 5], [9, 4])),
        (run(&tokens, &table, at(&table_of(9, 5, F32), 0)), dtype("positions", F16, F32)),
        (run(&tokens, &table, at(&table_of(0, 5, F16), 0)), Error::ZeroSize { what: "rows of positions" }),
        (
            run(&tokens, &table, at(&table_of(4, 5, F16), 2)),
            Error::PositionPastTable { sequence: 0, position: 4, rows: 4 },
        ),
        (run(&tokens, &table, of(&types, &zeros([5], F16))), any_shape("types", [None, None], [5])),
        (run(&tokens, &table, of(&types, &table_of(3, 4, F16))), shape("types", [3, 5], [3, 4])),
        (run(&tokens, &table, of(&types, &table_of(3, 5, BF16))), dtype("types", F16, BF16)),
        (run(&tokens, &table, of(&types, &table_of(2, 5, F16))), past("type ids", 3, "types", 2)),
        (
            run(&tokens, &table, of(&ids(&[0; 6], [3, 2]), &table_of(3, 5, F16))),
            shape("type ids", [2, 3], [3, 2]),
        ),
        (run(&ids(&[u32::MAX], [1]), &table, plain), past("tokens", 1 << 32, "table", 4)),
    ]);
    let into = |mut y: Tensor| ops::embedding_into(&mut y, &tokens, &table, &plain);
    each([
        (into(zeros([6, 5], F16)), shape("y", [2, 3, 5], [6, 5])),
        (into(zeros([2, 3, 5], F32)), dtype("y", F16, F32)),
    ]);
    assert_eq!(into(zeros([2, 3, 5], F16)), Ok(()));
}

/// A sequence that has gone on for long comes to the end of its positions; one that has no tokens asks for none.
#[test]
fn positions() {
    let (tokens, table) = (ids(&[0; 6], [3, 2]), zeros([1, 5], F32));
    let positions = zeros([8, 5], F32);
    let run = |lengths: [usize; 3], past: [usize; 3], first| {
        let sequences = Sequences::padded(2, &lengths).unwrap().after(&past).unwrap();
        let options = EmbeddingOptions {
            positions: Some(Positions { table: &positions, first }),
            sequences: Some(&sequences),
            ..Default::default()
        };
        ops::embedding(&tokens, &table, &options).map(drop)
    };
    let past = |sequence, position| Error::PositionPastTable { sequence, position, rows: 8 };
    assert_eq!(run([2, 1, 0], [6, 7, 100], 0), Ok(()));
    each([
        (run([2, 2, 0], [6, 7, 100], 0), past(1, 8)),
        (run([2, 1, 1], [6, 7, 100], 0), past(2, 100)),
        (run([2, 1, 0], [6, 7, 100], 1), past(0, 8)),
        (run([1, 0, 0], [0; 3], usize::MAX / 32), past(0, usize::MAX / 32)),
    ]);
}

#[test]
fn top_k() {
    let x = zeros([2, 3, 4], BF16);
    let run = |x: &Tensor, k| ops::top_k(x, k, &TopKOptions::default()).map(drop);
    each([
        (run(&zeros([], F32), 1), any_shape("x", [None], [])),
        (run(&zeros([3, 0], F32), 1), Error::ZeroSize { what: "vocabulary" }),
        (run(&x, 0), Error::ZeroSize { what: "k" }),
        (run(&x, 5), Error::TopK { k: 5, vocabulary: 4 }),
        (ops::argmax(&zeros([], F32)).map(drop), any_shape("x", [None], [])),
        (ops::argmax(&zeros([3, 0], F32)).map(drop), Error::ZeroSize { what: "vocabulary" }),
    ]);
    let into = |mut values: Tensor, mut tokens: Tokens| {
        ops::top_k_into(&mut values, &mut tokens, &x, 2, &TopKOptions::default())
    };
    let tokens = || ids(&[0; 12], [2, 3, 2]);
    each([
        (into(zeros([6, 2], F32), tokens()), shape("values", [2, 3, 2], [6, 2])),
        (into(zeros([2, 3, 2], BF16), tokens()), dtype("values", F32, BF16)),
        (into(zeros([2, 3, 2], F32), ids(&[0; 12], [12])), shape("tokens", [2, 3, 2], [12])),
        (ops::argmax_into(&mut ids(&[0; 6], [6]), &x), shape("tokens", [2, 3], [6])),
    ]);
    assert_eq!(into(zeros([2, 3, 2], F32), tokens()), Ok(()));
}

/// Tokens on another device than the table are refused, and so is memory for them.
#[test]
fn devices_are_not_mixed() {
    for device in devices().into_iter().filter(|device| device != &Device::cpu()) {
        let error = |result: Result<()>, name| match result {
            Err(Error::Device { tensor, .. }) => assert_eq!(tensor, name, "{device}"),
            other => panic!("{other:?} on {device}"),
        };
        let here = Tokens::zeros(&[2], &device).unwrap();
        let there = ids(&[0, 0], [2]);
        let table = zeros([3, 4], F32);
        error(ops::embedding(&here, &table, &EmbeddingOptions::default()).map(drop), "tokens");
        let options = EmbeddingOptions { types: Some((&here, &table)), ..Default::default() };
        error(ops::embedding(&there, &table, &options).map(drop), "type ids");
        error(ops::argmax_into(&mut Tokens::zeros(&[3], &device).unwrap(), &table), "tokens");
    }
}
