use lightspan::cuda::{DynamicConvBackward, DynamicConvBackwardArgs, Elements, Rows, RowsMut, TapArgs};
use lightspan::problem::{DynamicConvBackwardProblem, DynamicConvProblem, DynamicConvWanted};
use lightspan::{DType, DropoutRate, Result, Tensor};

use super::{Bench, conv, halves, missing, other_sequences, short, stride, surplus};
use crate::support::each;

/// Where a gradient goes: it fits, it has too little room, or it is not there.
#[derive(Clone, Copy, PartialEq)]
enum Memory {
    Good,
    /// So many numbers.
    Short(usize),
    Nothing,
}

use Memory::{Good, Nothing, Short};

/// A call that fits, but for what `change` does to it, and where it writes dx, dlogits, dweight, dweight_bias, dquery, dbias
/// and scratch. A query has 5 channels.
fn call(
    bench: &Bench,
    (given, dropout): (bool, bool),
    change: impl for<'a> FnOnce(&mut DynamicConvBackwardArgs<'a>, &'a Bench),
    memory: [Memory; 7],
) -> Result<()> {
    let conv = conv().with_bias(true).with_dropout(dropout.then(|| DropoutRate::new(0.5).unwrap()));
    let forward = match given {
        true => DynamicConvProblem::given(conv)?,
        false => DynamicConvProblem::generated(conv)?.with_query(5, DType::F32)?.with_weight_bias(true)?,
    };
    let problem = DynamicConvBackwardProblem::new(forward, DynamicConvWanted::ALL)?;
    let operator = DynamicConvBackward::new(&bench.gpu, problem)?;
    let mut tensors: [Tensor; 7] = [0; 7].map(|_| Tensor::zeros(&[2000], DType::F32, &bench.device).unwrap());
    let mut memory = tensors.iter_mut().zip(memory).map(|(tensor, memory)| match memory {
        Good => Some(tensor.cuda_mut().unwrap()),
        Short(len) => Some(tensor.cuda_mut().unwrap().at(2000 - len)),
        Nothing => None,
    });
    let mut next = || memory.next().unwrap();
    let mut args = DynamicConvBackwardArgs {
        sequences: &bench.good,
        x: Rows::contiguous(bench.some()),
        taps: match given {
            true => TapArgs::Given { logits: Rows::contiguous(bench.some()) },
            false => generated(bench.some(), Some(bench.some()), Some(Rows::contiguous(bench.some()))),
        },
        seed: dropout.then_some(1),
        dy: Rows::contiguous(bench.some()),
        dx: next().map(RowsMut::contiguous),
        dlogits: next().map(RowsMut::contiguous),
        dweight: next(),
        dweight_bias: next(),
        dquery: next().map(RowsMut::contiguous),
        dbias: next(),
    };
    change(&mut args, bench);
    operator.launch(args, next())
}

fn generated<'a>(
    weight: Elements<'a>,
    weight_bias: Option<Elements<'a>>,
    query: Option<Rows<'a>>,
) -> TapArgs<'a> {
    TapArgs::Generated { weight, weight_bias, query }
}

fn too_short(tensor: &'static str) -> lightspan::Error {
    lightspan::Error::Length { tensor, expected: 2001, got: 2000 }
}

#[test]
fn dynamic_conv_backward() {
    let Some(bench) = Bench::new() else { return };
    let (b, given, made) = (&bench, (true, false), (false, false));
    let good = [Good, Good, Nothing, Nothing, Nothing, Good, Good];
    let full = [Good, Nothing, Good, Good, Good, Good, Good];
    let with = |memory: [Memory; 7], i: usize, what: Memory| {
        let mut memory = memory;
        memory[i] = what;
        memory
    };
    call(b, given, |_, _| (), good).unwrap();
    call(b, (true, true), |_, _| (), good).unwrap();
    call(b, made, |_, _| (), full).unwrap();
    each([
        (call(b, given, |args, b| args.sequences = &b.other, good), other_sequences()),
        (call(b, given, |args, b| args.sequences = &b.later, good), missing("history")),
        (call(b, given, |args, b| args.x = Rows::contiguous(b.last(23)), good), short("x")),
        (call(b, given, |args, b| args.x = Rows::contiguous(b.halves()), good), halves("x")),
        (call(b, given, |args, b| args.dy = Rows::contiguous(b.last(23)), good), short("dy")),
        (call(b, given, |args, b| args.dy = Rows::strided(b.some(), 3), good), stride("dy", 4)),
        (call(b, given, |args, b| args.dy = Rows::contiguous(b.elsewhere()), good), b.foreign("dy")),
        (call(b, given, |args, _| args.seed = Some(1), good), surplus("seed")),
        (call(b, (true, true), |args, _| args.seed = None, good), missing("seed")),
        (
            call(
                b,
                given,
                |args, b| args.taps = TapArgs::Given { logits: Rows::contiguous(b.last(35)) },
                good,
            ),
            short("logits"),
        ),
        (call(b, given, |args, b| args.taps = generated(b.some(), None, None), good), missing("logits")),
        (
            call(b, made, |args, b| args.taps = TapArgs::Given { logits: Rows::contiguous(b.some()) }, full),
            surplus("logits"),
        ),
        (
            call(b, made, |args, b| args.taps = generated(b.last(29), Some(b.some()), None), full),
            short("weight"),
        ),
        (call(b, given, |_, _| (), with(good, 0, Nothing)), missing("dx")),
        (call(b, given, |_, _| (), with(good, 0, Short(23))), too_short("dx")),
        (call(b, given, |_, _| (), with(good, 1, Nothing)), missing("dlogits")),
        (call(b, given, |_, _| (), with(good, 1, Short(35))), too_short("dlogits")),
        (call(b, made, |_, _| (), with(full, 1, Good)), surplus("dlogits")),
        (call(b, made, |_, _| (), with(full, 2, Nothing)), missing("dweight")),
        (call(b, made, |_, _| (), with(full, 2, Short(29))), too_short("dweight")),
        (call(b, given, |_, _| (), with(good, 2, Good)), surplus("dweight")),
        (call(b, made, |_, _| (), with(full, 3, Nothing)), missing("dweight_bias")),
        (call(b, made, |_, _| (), with(full, 3, Short(5))), too_short("dweight_bias")),
        (call(b, given, |_, _| (), with(good, 3, Good)), surplus("dweight_bias")),
        (call(b, made, |_, _| (), with(full, 4, Nothing)), missing("dquery")),
        (call(b, made, |_, _| (), with(full, 4, Short(29))), too_short("dquery")),
        (call(b, given, |_, _| (), with(good, 4, Good)), surplus("dquery")),
        (call(b, given, |_, _| (), with(good, 5, Nothing)), missing("dbias")),
        (call(b, given, |_, _| (), with(good, 5, Short(3))), too_short("dbias")),
        (call(b, made, |_, _| (), with(full, 6, Nothing)), missing("scratch")),
    ]);
}
