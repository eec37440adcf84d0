use lightspan::Tokens;
use lightspan::cuda::{Embedding, EmbeddingArgs, Ids, TopK, TopKArgs};
use lightspan::problem::{EmbeddingProblem, TopKProblem};

use super::*;

/// 200 ids.
fn ids(bench: &Bench) -> Tokens {
    Tokens::zeros(&[NUMBERS], &bench.device).unwrap()
}

#[test]
fn embedding() {
    /// Six rows of five; a call that fits, but for what `change` does to it.
    fn call(
        bench: &Bench,
        ids: &Tokens,
        full: bool,
        change: impl for<'a> FnOnce(&mut EmbeddingArgs<'a>, &'a Bench, Ids<'a>),
        output: impl for<'a> FnOnce(&'a mut Outputs) -> RowsMut<'a>,
    ) -> Result<()> {
        let [good, ..] = sequences();
        let problem = match full {
            true => EmbeddingProblem::of_sequences(good.shape(), 4, 5, DType::F32)?
                .with_positions(6, 1)?
                .with_types(2)?,
            false => EmbeddingProblem::new(6, 4, 5, DType::F32)?,
        };
        let rows = || Rows::contiguous(bench.some());
        let some = ids.cuda().unwrap();
        let mut outputs = Outputs::of(bench);
        let mut args = EmbeddingArgs {
            sequences: full.then_some(&bench.good),
            tokens: some,
            table: rows(),
            positions: full.then(rows),
            type_ids: full.then_some(some),
            types: full.then(rows),
            y: output(&mut outputs),
        };
        change(&mut args, bench, some);
        Embedding::new(&bench.gpu, problem)?.launch(args)
    }
    let Some(bench) = Bench::new() else { return };
    let (b, ids, good) = (&bench, &ids(&bench), Outputs::good);
    call(b, ids, false, |_, _, _| (), good).unwrap();
    call(b, ids, true, |_, _, _| (), good).unwrap();
    call(b, ids, true, |args, b, _| args.sequences = Some(&b.later), good).unwrap();
    let [expected, _, other] = sequences().map(|sequences| sequences.shape().to_string());
    each([
        (call(b, ids, false, |args, b, _| args.sequences = Some(&b.good), good), surplus("sequences")),
        (call(b, ids, true, |args, _, _| args.sequences = None, good), missing("sequences")),
        (
            call(b, ids, true, |args, b, _| args.sequences = Some(&b.other), good),
            Error::Sequences { expected, got: other },
        ),
        (call(b, ids, false, |args, _, ids| args.tokens = ids.at(NUMBERS - 5), good), short("tokens")),
        (call(b, ids, false, |args, b, _| args.table = Rows::contiguous(b.last(19)), good), short("table")),
        (call(b, ids, false, |args, b, _| args.table = Rows::contiguous(b.halves()), good), halves("table")),
        (call(b, ids, false, |args, b, _| args.table = Rows::strided(b.some(), 4), good), stride("table", 5)),
        (
            call(b, ids, false, |args, b, _| args.table = Rows::contiguous(b.elsewhere()), good),
            b.foreign("table"),
        ),
        (call(b, ids, true, |args, _, _| args.positions = None, good), missing("positions")),
        (
            call(b, ids, true, |args, b, _| args.positions = Some(Rows::contiguous(b.last(29))), good),
            short("positions"),
        ),
        (call(b, ids, true, |args, _, _| args.types = None, good), missing("types")),
        (call(b, ids, true, |args, _, _| args.type_ids = None, good), missing("type ids")),
        (
            call(b, ids, true, |args, _, ids| args.type_ids = Some(ids.at(NUMBERS - 5)), good),
            short("type ids"),
        ),
        (call(b, ids, false, |args, _, ids| args.type_ids = Some(ids), good), surplus("type ids")),
        (call(b, ids, false, |_, _, _| (), |out| RowsMut::strided(out.get(0), 4)), stride("y", 5)),
        (call(b, ids, false, |_, _, _| (), |out| RowsMut::contiguous(out.get(1))), halves("y")),
        (call(b, ids, false, |_, _, _| (), |out| RowsMut::contiguous(out.get(2))), b.foreign("y")),
    ]);
}

#[test]
fn top_k() {
    fn call<'a>(
        bench: &'a Bench,
        values: Option<usize>,
        x: impl FnOnce(&'a Bench) -> Rows<'a>,
        skipped: usize,
    ) -> Result<()> {
        let problem =
            TopKProblem::new(3, 5, 2, DType::F32)?.with_values(values != Some(9) && values.is_some());
        let (mut ids, mut outputs) = (ids(bench), Outputs::of(bench));
        let values = values.map(|which| RowsMut::contiguous(outputs.get(which % 9)));
        let tokens = ids.cuda_mut().unwrap().at(skipped);
        TopK::new(&bench.gpu, problem)?.launch(TopKArgs { x: x(bench), values, tokens })
    }
    let Some(bench) = Bench::new() else { return };
    let good = |b| Rows::contiguous(Bench::some(b));
    call(&bench, None, good, 0).unwrap();
    call(&bench, Some(0), good, 0).unwrap();
    each([
        (call(&bench, None, |b| Rows::contiguous(b.last(14)), 0), short("x")),
        (call(&bench, None, |b| Rows::strided(b.some(), 4), 0), stride("x", 5)),
        (call(&bench, None, |b| Rows::contiguous(b.halves()), 0), halves("x")),
        (call(&bench, Some(1), good, 0), halves("values")),
        (call(&bench, Some(9), good, 0), surplus("values")),
        (call(&bench, Some(0), good, NUMBERS - 5), short("tokens")),
    ]);
}
