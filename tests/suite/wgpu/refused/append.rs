use lightspan::problem::AppendProblem;
use lightspan::wgpu::{Append, AppendArgs};

use super::*;
use crate::support::each;

#[test]
fn append() {
    let Some(b) = Bench::new() else { return };
    // Room for four tokens of two sequences, four channels each.
    let [good, ..] = sequences();
    let operator = |room| {
        let problem = AppendProblem::new(good.shape(), 4, room, DType::F32).unwrap();
        Append::new(&b.gpu, problem).unwrap()
    };
    let plain = AppendArgs { sequences: &b.later, x: rows(b.some()), cache: rows(b.out()) };
    let run = |args| operator(4).bind(args);
    assert_eq!(run(plain).unwrap().dispatches(), 1);
    let room = |sequence, tokens, room| Error::CacheRoom { sequence, tokens, room };
    each([
        (run(AppendArgs { sequences: &b.other, ..plain }), other_sequences()),
        (operator(3).bind(plain), room(1, 4, 3)),
        (operator(2).bind(AppendArgs { sequences: &b.good, ..plain }), room(0, 3, 2)),
        (run(AppendArgs { x: rows(b.last(23)), ..plain }), short("x")),
        (run(AppendArgs { x: rows(b.unbound()), ..plain }), usage("x")),
        (run(AppendArgs { x: Rows::strided(b.some(), 3), ..plain }), stride("x", 4)),
        (run(AppendArgs { x: rows(b.out()), ..plain }), shared("cache", "x")),
        (run(AppendArgs { cache: Rows::strided(b.out(), 3), ..plain }), stride("cache", 4)),
        (run(AppendArgs { cache: rows(Elements::at(&b.output, NUMBERS - 31)), ..plain }), short("cache")),
        (run(AppendArgs { cache: rows(b.unbound()), ..plain }), usage("cache")),
    ]);
}
