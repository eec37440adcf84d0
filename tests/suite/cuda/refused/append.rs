use lightspan::cuda::{Append, AppendArgs};
use lightspan::ops;
use lightspan::problem::AppendProblem;

use super::*;

#[test]
fn append() {
    /// Room for four tokens of two sequences, four channels each; a call that fits, but for what `change` does to it.
    fn call(
        bench: &Bench,
        change: impl for<'a> FnOnce(&mut AppendArgs<'a>, &'a Bench),
        cache: impl for<'a> FnOnce(&'a mut Outputs) -> RowsMut<'a>,
    ) -> Result<()> {
        let mut outputs = Outputs::of(bench);
        let mut args = AppendArgs {
            sequences: &bench.later,
            x: Rows::contiguous(bench.some()),
            cache: cache(&mut outputs),
        };
        change(&mut args, bench);
        let [good, ..] = sequences();
        Append::new(&bench.gpu, AppendProblem::new(good.shape(), 4, 4, DType::F32)?)?.launch(args)
    }
    let Some(bench) = Bench::new() else { return };
    let b = &bench;
    let good = Outputs::good;
    call(b, |_, _| (), good).unwrap();
    let further = sequences()[0].clone().after(&[1, 2]).unwrap();
    let further = DeviceSequences::new(&b.gpu, &further).unwrap();
    let room = |sequence, tokens, room| Error::CacheRoom { sequence, tokens, room };
    let launch_further = || {
        let (mut outputs, [good, ..]) = (Outputs::of(b), sequences());
        let args = AppendArgs { sequences: &further, x: Rows::contiguous(b.some()), cache: outputs.good() };
        Append::new(&b.gpu, AppendProblem::new(good.shape(), 4, 4, DType::F32)?)?.launch(args)
    };
    each([
        (call(b, |args, b| args.sequences = &b.other, good), other_sequences()),
        (call(b, |args, b| args.sequences = &b.foreign, good), b.foreign("sequences")),
        (launch_further(), room(1, 5, 4)),
        (call(b, |args, b| args.x = Rows::contiguous(b.last(23)), good), short("x")),
        (call(b, |args, b| args.x = Rows::contiguous(b.halves()), good), halves("x")),
        (call(b, |args, b| args.x = Rows::contiguous(b.elsewhere()), good), b.foreign("x")),
        (call(b, |args, b| args.x = Rows::strided(b.some(), 3), good), stride("x", 4)),
        (call(b, |_, _| (), |out| RowsMut::contiguous(out.get(0).at(NUMBERS - 31))), short("cache")),
        (call(b, |_, _| (), |out| RowsMut::strided(out.get(0), 3)), stride("cache", 4)),
        (call(b, |_, _| (), |out| RowsMut::contiguous(out.get(1))), halves("cache")),
        (call(b, |_, _| (), |out| RowsMut::contiguous(out.get(2))), b.foreign("cache")),
    ]);

    // On tensors: a cache on another device than x.
    let [good, ..] = sequences();
    let x = Tensor::zeros(&[2, 3, 4], DType::F32, &b.device).unwrap();
    let mut cache = Tensor::zeros(&[2, 4, 4], DType::F32, &Device::cpu()).unwrap();
    let (expected, got) = (b.device.to_string(), Device::cpu().to_string());
    let refused = ops::append(&mut cache, &x, &good);
    assert_eq!(refused, Err(Error::Device { tensor: "cache", expected, got }));
}
