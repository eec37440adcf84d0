//! Embeddings and the largest numbers of rows.

use lightspan::DType::F32;
use lightspan::problem::{EmbeddingProblem, TopKProblem};
use lightspan::wgpu::{Embedding, EmbeddingArgs, TopK, TopKArgs};

use super::*;
use crate::support::each;

#[test]
fn embedding() {
    let Some(b) = Bench::new() else { return };
    let plain = EmbeddingArgs {
        sequences: None,
        tokens: b.some(),
        table: rows(b.some()),
        positions: None,
        type_ids: None,
        types: None,
        y: rows(b.out()),
    };
    let full = EmbeddingArgs {
        sequences: Some(&b.good),
        positions: Some(rows(b.some())),
        type_ids: Some(b.some()),
        types: Some(rows(b.some())),
        ..plain
    };
    let run = |args: EmbeddingArgs<'_>| {
        let problem = EmbeddingProblem::new(6, 4, 5, F32).unwrap();
        Embedding::new(&b.gpu, problem).unwrap().bind(args)
    };
    let run_full = |args: EmbeddingArgs<'_>| {
        let [good, ..] = sequences();
        let problem = EmbeddingProblem::of_sequences(good.shape(), 4, 5, F32)
            .and_then(|problem| problem.with_positions(6, 1)?.with_types(2))
            .unwrap();
        Embedding::new(&b.gpu, problem).unwrap().bind(args)
    };
    assert_eq!((run(plain).unwrap().dispatches(), run_full(full).unwrap().dispatches()), (1, 1));
    run_full(EmbeddingArgs { sequences: Some(&b.later), ..full }).unwrap();
    each([
        (run(EmbeddingArgs { sequences: Some(&b.good), ..plain }), surplus("sequences")),
        (run(EmbeddingArgs { tokens: b.last(5), ..plain }), short("tokens")),
        (run(EmbeddingArgs { tokens: b.unbound(), ..plain }), usage("tokens")),
        (run(EmbeddingArgs { table: rows(b.last(19)), ..plain }), short("table")),
        (run(EmbeddingArgs { table: Rows::strided(b.some(), 4), ..plain }), stride("table", 5)),
        (run(EmbeddingArgs { positions: Some(rows(b.some())), ..plain }), surplus("positions")),
        (run(EmbeddingArgs { y: rows(b.some()), ..plain }), shared("y", "tokens")),
        (run(EmbeddingArgs { y: Rows::strided(b.out(), 4), ..plain }), stride("y", 5)),
        (run_full(EmbeddingArgs { sequences: None, ..full }), missing("sequences")),
        (run_full(EmbeddingArgs { sequences: Some(&b.other), ..full }), other_sequences()),
        (run_full(EmbeddingArgs { positions: None, ..full }), missing("positions")),
        (run_full(EmbeddingArgs { positions: Some(rows(b.last(29))), ..full }), short("positions")),
        (run_full(EmbeddingArgs { type_ids: None, ..full }), missing("type ids")),
        (run_full(EmbeddingArgs { type_ids: Some(b.last(5)), ..full }), short("type ids")),
        (run_full(EmbeddingArgs { types: None, ..full }), missing("types")),
        (run_full(EmbeddingArgs { types: Some(rows(b.last(9))), ..full }), short("types")),
    ]);
}

#[test]
fn top_k() {
    let Some(b) = Bench::new() else { return };
    let plain = TopKArgs { x: rows(b.some()), values: None, tokens: b.out() };
    let run = |values: bool, args: TopKArgs<'_>| {
        let problem = TopKProblem::new(3, 5, 2, F32).unwrap().with_values(values);
        TopK::new(&b.gpu, problem).unwrap().bind(args)
    };
    let with = TopKArgs { values: Some(Rows::contiguous(&b.inputs[1])), ..plain };
    assert_eq!((run(false, plain).unwrap().dispatches(), run(true, with).unwrap().dispatches()), (1, 2));
    each([
        (run(false, TopKArgs { x: rows(b.last(14)), ..plain }), short("x")),
        (run(false, TopKArgs { x: Rows::strided(b.some(), 4), ..plain }), stride("x", 5)),
        (run(false, TopKArgs { tokens: b.unbound(), ..plain }), usage("tokens")),
        (run(false, TopKArgs { tokens: b.some(), ..plain }), shared("tokens", "x")),
        (run(false, with), surplus("values")),
        (run(true, plain), missing("values")),
        (run(true, TopKArgs { values: Some(Rows::strided(b.some(), 1)), ..plain }), stride("values", 2)),
        (run(true, TopKArgs { values: Some(rows(b.some())), ..plain }), shared("values", "x")),
        (run(true, TopKArgs { values: Some(rows(b.out())), ..plain }), shared("values", "tokens")),
    ]);
}
