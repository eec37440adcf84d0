use lightspan::cuda::{DynamicConv, DynamicConvArgs, Elements, ElementsMut, Rows, RowsMut, TapArgs};
use lightspan::problem::DynamicConvProblem;
use lightspan::{DType, Error, Result, Tensor};

use super::{Bench, NUMBERS, Outputs, conv, halves, missing, other_sequences, short, stride, surplus};
use crate::support::each;

#[test]
fn wrong_arguments() {
    /// Where the taps of a call come from.
    #[derive(Clone, Copy, PartialEq)]
    enum Origin {
        Given,
        X,
        Query,
    }

    /// A call that fits, but for what `change` does to it. A query has 5 channels.
    fn call(
        bench: &Bench,
        from: Origin,
        change: impl for<'a> FnOnce(&mut DynamicConvArgs<'a>, &'a Bench),
        output: impl for<'a> FnOnce(&'a mut Outputs) -> RowsMut<'a>,
    ) -> Result<()> {
        let full = from == Origin::Query;
        let conv = conv().with_bias(full).with_history(full)?;
        let problem = match from {
            Origin::Given => DynamicConvProblem::given(conv)?,
            Origin::X => DynamicConvProblem::generated(conv)?,
            Origin::Query => {
                DynamicConvProblem::generated(conv)?.with_query(5, DType::F32)?.with_weight_bias(true)?
            }
        };
        let operator = DynamicConv::new(&bench.gpu, problem)?;
        let mut outputs = Outputs::of(bench);
        let mut scratch = Tensor::zeros(&[NUMBERS], DType::F32, &bench.device)?;
        let mut args = DynamicConvArgs {
            sequences: &bench.good,
            x: Rows::contiguous(bench.some()),
            taps: match from {
                Origin::Given => TapArgs::Given { logits: Rows::contiguous(bench.some()) },
                _ => TapArgs::Generated {
                    weight: bench.some(),
                    weight_bias: full.then(|| bench.some()),
                    query: full.then(|| Rows::contiguous(bench.some())),
                },
            },
            bias: full.then(|| bench.some()),
            history: full.then(|| bench.some()),
            seed: None,
            y: output(&mut outputs),
        };
        change(&mut args, bench);
        operator.launch(args, scratch.cuda_mut())
    }
    fn logits(logits: Rows<'_>) -> TapArgs<'_> {
        TapArgs::Given { logits }
    }
    let Some(bench) = Bench::new() else { return };
    let (b, good) = (&bench, Outputs::good);
    use Origin::{Given, Query, X};
    fn generated<'a>(
        weight: Elements<'a>,
        weight_bias: Option<Elements<'a>>,
        query: Option<Elements<'a>>,
    ) -> TapArgs<'a> {
        TapArgs::Generated { weight, weight_bias, query: query.map(Rows::contiguous) }
    }
    for from in [Given, X, Query] {
        call(b, from, |_, _| (), good).unwrap();
    }
    let with =
        |from, taps: for<'a> fn(&'a Bench) -> TapArgs<'a>| call(b, from, |args, b| args.taps = taps(b), good);
    each([
        (call(b, Given, |args, b| args.sequences = &b.other, good), other_sequences()),
        (call(b, X, |args, b| args.sequences = &b.later, good), missing("history")),
        (call(b, Given, |args, b| args.x = Rows::contiguous(b.last(23)), good), short("x")),
        (call(b, X, |args, b| args.x = Rows::contiguous(b.halves()), good), halves("x")),
        (call(b, Given, |args, b| args.bias = Some(b.some()), good), surplus("bias")),
        (call(b, Query, |args, _| args.bias = None, good), missing("bias")),
        (call(b, Query, |args, b| args.history = Some(b.last(15)), good), short("history")),
        (call(b, Query, |args, _| args.history = None, good), missing("history")),
        (call(b, Given, |_, _| (), |out| RowsMut::contiguous(out.get(0).at(NUMBERS - 23))), short("y")),
        (call(b, X, |_, _| (), |out| RowsMut::contiguous(out.get(2))), b.foreign("y")),
        (with(Given, |b| logits(Rows::contiguous(b.last(35)))), short("logits")),
        (with(Given, |b| logits(Rows::strided(b.some(), 5))), stride("logits", 6)),
        (with(Given, |b| logits(Rows::contiguous(b.halves()))), halves("logits")),
        (with(Given, |b| logits(Rows::contiguous(b.elsewhere()))), b.foreign("logits")),
        (with(Given, |b| generated(b.some(), None, None)), missing("logits")),
        (with(X, |b| logits(Rows::contiguous(b.some()))), surplus("logits")),
        (with(X, |b| generated(b.last(23), None, None)), short("weight")),
        (with(X, |b| generated(b.halves(), None, None)), halves("weight")),
        (with(X, |b| generated(b.some(), Some(b.some()), None)), surplus("weight_bias")),
        (with(X, |b| generated(b.some(), None, Some(b.some()))), surplus("query")),
        (with(Query, |b| generated(b.some(), None, Some(b.some()))), missing("weight_bias")),
        (with(Query, |b| generated(b.some(), Some(b.last(5)), Some(b.some()))), short("weight_bias")),
        (with(Query, |b| generated(b.some(), Some(b.some()), None)), missing("query")),
        (with(Query, |b| generated(b.some(), Some(b.some()), Some(b.last(29)))), short("query")),
        (with(Query, |b| generated(b.some(), Some(b.some()), Some(b.halves()))), halves("query")),
    ]);
}

/// Scratch memory of a call whose logits cross from one launch to another.
#[test]
fn wrong_scratch() {
    let Some(bench) = Bench::new() else { return };
    let b = &bench;
    let operator = DynamicConv::new(&b.gpu, DynamicConvProblem::generated(conv()).unwrap()).unwrap();
    let len = operator.scratch_len() as usize;
    if len == 0 {
        return;
    }
    assert_eq!(len, 6 * 2 * 3);
    let launch = |scratch: Option<ElementsMut<'_>>| {
        let taps = TapArgs::Generated { weight: b.some(), weight_bias: None, query: None };
        let (sequences, x, mut outputs) = (&b.good, Rows::contiguous(b.some()), Outputs::of(b));
        let y = outputs.good();
        operator
            .launch(DynamicConvArgs { sequences, x, taps, bias: None, history: None, seed: None, y }, scratch)
    };
    let mut scratch = Outputs::of(b);
    launch(Some(scratch.get(0))).unwrap();
    each([
        (launch(None), missing("scratch")),
        (
            launch(Some(scratch.get(0).at(NUMBERS - 35))),
            Error::Length { tensor: "scratch", expected: NUMBERS + 1, got: NUMBERS },
        ),
        (launch(Some(scratch.get(1))), halves("scratch")),
        (launch(Some(scratch.get(2))), b.foreign("scratch")),
    ]);
}
