use lightspan::cuda::{LightConvBackward, LightConvBackwardArgs, Rows};
use lightspan::problem::{LightConvBackwardProblem, LightConvProblem, LightConvWanted};
use lightspan::{DropoutRate, Error, Result};

use super::gradients::Memory::{Good, Halves, Narrow, None as Nothing, Short};
use super::gradients::{Memory, Written};
use super::{Bench, NUMBERS, conv, halves, missing, other_sequences, short, stride, surplus};
use crate::support::each;

/// A call that fits, but for what `change` does to it and where it writes dx, dweight, dbias and scratch.
fn call(
    bench: &Bench,
    (wanted, dropout): (LightConvWanted, bool),
    change: impl for<'a> FnOnce(&mut LightConvBackwardArgs<'a>, &'a Bench),
    memory: [Memory; 4],
) -> Result<()> {
    let rate = dropout.then(|| DropoutRate::new(0.5).unwrap());
    let forward = LightConvProblem::new(conv().with_bias(true).with_dropout(rate));
    let operator =
        LightConvBackward::new(&bench.gpu, LightConvBackwardProblem::new(forward, wanted).unwrap()).unwrap();
    let [mut x, mut weight, mut bias, mut scratch] = Written::of(bench);
    let mut args = LightConvBackwardArgs {
        sequences: &bench.good,
        x: Rows::contiguous(bench.some()),
        weight: bench.some(),
        seed: dropout.then_some(1),
        dy: Rows::contiguous(bench.some()),
        dx: x.rows(memory[0]),
        dweight: weight.elements(memory[1]),
        dbias: bias.elements(memory[2]),
    };
    change(&mut args, bench);
    operator.launch(args, scratch.elements(memory[3]))
}

#[test]
fn light_conv_backward() {
    let Some(bench) = Bench::new() else { return };
    let (b, all, none) = (&bench, (LightConvWanted::ALL, false), (LightConvWanted::NONE, false));
    let (dropped, good) = ((LightConvWanted::ALL, true), [Good; 4]);
    call(b, all, |_, _| (), good).unwrap();
    call(b, dropped, |_, _| (), good).unwrap();
    call(b, none, |_, _| (), [Nothing; 4]).unwrap();
    each([
        (call(b, all, |args, b| args.sequences = &b.other, good), other_sequences()),
        (call(b, all, |args, b| args.sequences = &b.later, good), missing("history")),
        (call(b, all, |args, b| args.x = Rows::contiguous(b.last(23)), good), short("x")),
        (call(b, none, |args, b| args.x = Rows::contiguous(b.last(23)), [Nothing; 4]), short("x")),
        (call(b, all, |args, b| args.x = Rows::strided(b.some(), 3), good), stride("x", 4)),
        (call(b, all, |args, b| args.weight = b.last(5), good), short("weight")),
        (call(b, all, |args, b| args.weight = b.elsewhere(), good), b.foreign("weight")),
        (call(b, all, |args, _| args.seed = Some(1), good), surplus("seed")),
        (call(b, dropped, |args, _| args.seed = None, good), missing("seed")),
        (call(b, all, |args, b| args.dy = Rows::contiguous(b.last(23)), good), short("dy")),
        (call(b, all, |args, b| args.dy = Rows::strided(b.some(), 3), good), stride("dy", 4)),
        (call(b, all, |args, b| args.dy = Rows::contiguous(b.halves()), good), halves("dy")),
        (call(b, all, |_, _| (), [Nothing, Good, Good, Good]), missing("dx")),
        (call(b, all, |_, _| (), [Short(23), Good, Good, Good]), short("dx")),
        (call(b, all, |_, _| (), [Narrow, Good, Good, Good]), stride("dx", 4)),
        (call(b, all, |_, _| (), [Halves, Good, Good, Good]), halves("dx")),
        (call(b, none, |_, _| (), [Good, Nothing, Nothing, Nothing]), surplus("dx")),
        (call(b, all, |_, _| (), [Good, Nothing, Good, Good]), missing("dweight")),
        (call(b, all, |_, _| (), [Good, Short(5), Good, Good]), short("dweight")),
        (call(b, none, |_, _| (), [Nothing, Good, Nothing, Nothing]), surplus("dweight")),
        (call(b, all, |_, _| (), [Good, Good, Nothing, Good]), missing("dbias")),
        (call(b, all, |_, _| (), [Good, Good, Short(3), Good]), short("dbias")),
        (call(b, none, |_, _| (), [Nothing, Nothing, Good, Nothing]), surplus("dbias")),
        (call(b, all, |_, _| (), [Good, Good, Good, Nothing]), missing("scratch")),
        (call(b, all, |_, _| (), [Good, Good, Good, Halves]), halves("scratch")),
        (
            call(b, all, |_, _| (), [Good, Good, Good, Short(1)]),
            Error::Length {
                tensor: "scratch",
                expected: NUMBERS - 1 + scratch_len(b) as usize,
                got: NUMBERS,
            },
        ),
    ]);
}

fn scratch_len(bench: &Bench) -> u64 {
    let problem = LightConvProblem::new(conv().with_bias(true));
    let problem = LightConvBackwardProblem::new(problem, LightConvWanted::ALL).unwrap();
    LightConvBackward::new(&bench.gpu, problem).unwrap().scratch_len()
}
