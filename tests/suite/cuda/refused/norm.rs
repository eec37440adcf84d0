use lightspan::cuda::{Norm, NormArgs};
use lightspan::problem::{NormKind, NormProblem, NormResidual};

use super::*;

#[test]
fn norm() {
    /// Five rows of three; a call that fits, but for what `change` does to it.
    fn call(
        bench: &Bench,
        residual: NormResidual,
        bias: bool,
        change: impl for<'a> FnOnce(&mut NormArgs<'a>, &'a Bench),
        output: impl for<'a> FnOnce(&'a mut Outputs) -> RowsMut<'a>,
        sum: Option<usize>,
    ) -> Result<()> {
        let problem =
            NormProblem::new(NormKind::Rms, 5, 3, DType::F32)?.with_bias(bias).with_residual(residual);
        let (mut outputs, mut sums) = (Outputs::of(bench), Outputs::of(bench));
        let mut args = NormArgs {
            x: Rows::contiguous(bench.some()),
            residual: problem.has_residual().then(|| Rows::contiguous(bench.some())),
            weight: bench.some(),
            bias: bias.then(|| bench.some()),
            y: output(&mut outputs),
            sum: sum.map(|which| RowsMut::contiguous(sums.get(which))),
        };
        change(&mut args, bench);
        Norm::new(&bench.gpu, problem)?.launch(args)
    }
    let Some(bench) = Bench::new() else { return };
    let (b, good) = (&bench, Outputs::good);
    let (none, after, before) = (NormResidual::None, NormResidual::After, NormResidual::Before { sum: true });
    call(b, none, false, |_, _| (), good, None).unwrap();
    call(b, after, true, |_, _| (), good, None).unwrap();
    call(b, before, true, |_, _| (), good, Some(0)).unwrap();
    each([
        (call(b, none, false, |args, b| args.x = Rows::contiguous(b.last(14)), good, None), short("x")),
        (call(b, none, false, |args, b| args.x = Rows::strided(b.some(), 2), good, None), stride("x", 3)),
        (call(b, none, false, |args, b| args.weight = b.last(2), good, None), short("weight")),
        (call(b, none, false, |args, b| args.weight = b.halves(), good, None), halves("weight")),
        (call(b, none, false, |args, b| args.bias = Some(b.some()), good, None), surplus("bias")),
        (call(b, none, true, |args, _| args.bias = None, good, None), missing("bias")),
        (call(b, none, true, |args, b| args.bias = Some(b.elsewhere()), good, None), b.foreign("bias")),
        (
            call(b, none, false, |args, b| args.residual = Some(Rows::contiguous(b.some())), good, None),
            surplus("residual"),
        ),
        (call(b, after, false, |args, _| args.residual = None, good, None), missing("residual")),
        (
            call(b, after, false, |args, b| args.residual = Some(Rows::contiguous(b.last(14))), good, None),
            short("residual"),
        ),
        (call(b, before, false, |_, _| (), good, None), missing("sum")),
        (call(b, after, false, |_, _| (), good, Some(0)), surplus("sum")),
        (call(b, before, false, |_, _| (), good, Some(1)), halves("sum")),
        (call(b, before, false, |_, _| (), good, Some(2)), b.foreign("sum")),
        (call(b, none, false, |_, _| (), |out| RowsMut::strided(out.get(0), 2), None), stride("y", 3)),
        (call(b, none, false, |_, _| (), |out| RowsMut::contiguous(out.get(1)), None), halves("y")),
        (call(b, none, false, |_, _| (), |out| RowsMut::contiguous(out.get(2)), None), b.foreign("y")),
    ]);
}
