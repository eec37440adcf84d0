//! What each wrong argument of the CUDA room is answered, before anything is launched.

mod append;
mod dynamic_conv;
mod dynamic_conv_backward;
mod gradients;
mod light_conv_backward;
mod norm;
mod products_backward;
mod span_conv_backward;
mod tables;

use lightspan::cuda::{
    Attention, AttentionArgs, DeviceSequences, Elements, ElementsMut, Gpu, History, HistoryArgs, LightConv,
    LightConvArgs, Linear, LinearArgs, Rows, RowsMut, SpanKey, SpanKeyArgs,
};
use lightspan::problem::{
    Activation, AttentionKind, AttentionProblem, Convolution, HistoryProblem, LightConvProblem,
    LinearProblem, SpanKeyProblem,
};
use lightspan::{DType, Device, Error, Result, Sequences, Tensor, Window};

use crate::support::cuda::cuda_device;
use crate::support::each;

/// Tensors to make calls of.
struct Bench {
    device: Device,
    gpu: Gpu,
    /// 200 numbers of f32, and of f16.
    some: Tensor,
    halves: Tensor,
    /// On another device.
    elsewhere: Tensor,
    /// Six tokens in two sequences, and others that do not fit.
    good: DeviceSequences,
    later: DeviceSequences,
    other: DeviceSequences,
    foreign: DeviceSequences,
}

const NUMBERS: usize = 200;

fn sequences() -> [Sequences; 3] {
    let good = Sequences::batch(2, 3).unwrap();
    [good.clone(), good.after(&[0, 1]).unwrap(), Sequences::batch(3, 2).unwrap()]
}

/// Another device of the same kind: on a GPU another context would be needed, which cudarc shares, so the emulator.
fn another() -> Option<Device> {
    #[cfg(feature = "emulator")]
    return Some(Device::cuda_emulated());
    #[cfg(not(feature = "emulator"))]
    {
        eprintln!("SKIPPED: this test needs the feature emulator, for a second device");
        None
    }
}

impl Bench {
    fn new() -> Option<Self> {
        Bench::on(cuda_device()?)
    }

    /// On the GPU, or an emulated device that no other test uses: its launches can be counted.
    fn alone() -> Option<Self> {
        let device = cuda_device()?;
        #[cfg(feature = "emulator")]
        let device = if device.cuda_gpu()?.is_emulated() { Device::cuda_emulated() } else { device };
        Bench::on(device)
    }

    fn on(device: Device) -> Option<Self> {
        let another = another()?;
        let gpu = device.cuda_gpu().unwrap().clone();
        let tensor = |dtype, device| Tensor::zeros(&[NUMBERS], dtype, device).unwrap();
        let [good, later, other] = sequences().map(|list| DeviceSequences::new(&gpu, &list).unwrap());
        let foreign = DeviceSequences::new(another.cuda_gpu().unwrap(), &sequences()[1]).unwrap();
        Some(Bench {
            some: tensor(DType::F32, &device),
            halves: tensor(DType::F16, &device),
            elsewhere: tensor(DType::F32, &another),
            device,
            gpu,
            good,
            later,
            other,
            foreign,
        })
    }

    fn some(&self) -> Elements<'_> {
        self.some.cuda().unwrap()
    }

    /// The last `len` numbers: there are no more.
    fn last(&self, len: usize) -> Elements<'_> {
        self.some().at(NUMBERS - len)
    }

    fn halves(&self) -> Elements<'_> {
        self.halves.cuda().unwrap()
    }

    fn elsewhere(&self) -> Elements<'_> {
        self.elsewhere.cuda().unwrap()
    }

    /// Memory to write to.
    fn output(&self, dtype: DType) -> Tensor {
        Tensor::zeros(&[NUMBERS], dtype, &self.device).unwrap()
    }

    fn foreign(&self, tensor: &'static str) -> Error {
        let (expected, got) = (self.gpu.name().to_owned(), "another device".to_owned());
        Error::Device { tensor, expected, got }
    }
}

/// H = 2, K = 3, a history of two tokens for each sequence.
fn conv() -> Convolution {
    let [good, ..] = sequences();
    Convolution::new(good.shape(), 4, 2, Window::causal(3).unwrap(), DType::F32).unwrap()
}

fn missing(tensor: &'static str) -> Error {
    Error::Missing { tensor }
}

fn surplus(tensor: &'static str) -> Error {
    Error::Surplus { tensor }
}

/// They begin so near to the end that there is one number too few.
fn short(tensor: &'static str) -> Error {
    Error::Length { tensor, expected: NUMBERS + 1, got: NUMBERS }
}

fn halves(tensor: &'static str) -> Error {
    Error::DType { tensor, expected: vec![DType::F32], got: DType::F16 }
}

fn stride(tensor: &'static str, channels: usize) -> Error {
    Error::Stride { tensor, stride: channels - 1, channels }
}

fn other_sequences() -> Error {
    let [good, _, other] = sequences();
    Error::Sequences { expected: good.shape().to_string(), got: other.shape().to_string() }
}

/// Outputs to write into: one that fits, one of halves, one on another device.
struct Outputs([Tensor; 3]);

impl Outputs {
    fn of(bench: &Bench) -> Self {
        let tensor = |dtype, device| Tensor::zeros(&[NUMBERS], dtype, device).unwrap();
        let other = bench.elsewhere.device();
        Outputs([
            tensor(DType::F32, &bench.device),
            tensor(DType::F16, &bench.device),
            tensor(DType::F32, other),
        ])
    }

    fn get(&mut self, which: usize) -> ElementsMut<'_> {
        self.0[which].cuda_mut().unwrap()
    }

    fn good(&mut self) -> RowsMut<'_> {
        RowsMut::contiguous(self.get(0))
    }
}

#[test]
fn light_conv() {
    /// A call that fits, but for what `change` does to it.
    fn call(
        bench: &Bench,
        full: bool,
        change: impl for<'a> FnOnce(&mut LightConvArgs<'a>, &'a Bench),
        output: impl for<'a> FnOnce(&'a mut Outputs) -> RowsMut<'a>,
    ) -> Result<()> {
        let conv = conv().with_bias(full).with_history(full)?;
        let operator = LightConv::new(&bench.gpu, LightConvProblem::new(conv))?;
        let mut outputs = Outputs::of(bench);
        let mut args = LightConvArgs {
            sequences: &bench.good,
            x: Rows::contiguous(bench.some()),
            weight: bench.some(),
            bias: full.then(|| bench.some()),
            history: full.then(|| bench.some()),
            seed: None,
            y: output(&mut outputs),
        };
        change(&mut args, bench);
        operator.launch(args)
    }
    let Some(bench) = Bench::new() else { return };
    let (b, good) = (&bench, Outputs::good);
    call(b, false, |_, _| (), good).unwrap();
    call(b, true, |_, _| (), good).unwrap();
    each([
        (call(b, false, |args, b| args.sequences = &b.other, good), other_sequences()),
        (call(b, false, |args, b| args.sequences = &b.later, good), missing("history")),
        (call(b, true, |args, b| args.sequences = &b.foreign, good), b.foreign("sequences")),
        (call(b, false, |args, b| args.x = Rows::contiguous(b.last(23)), good), short("x")),
        (call(b, false, |args, b| args.x = Rows::strided(b.some(), 3), good), stride("x", 4)),
        (call(b, false, |args, b| args.x = Rows::contiguous(b.halves()), good), halves("x")),
        (call(b, false, |args, b| args.x = Rows::contiguous(b.elsewhere()), good), b.foreign("x")),
        (call(b, false, |args, b| args.weight = b.last(5), good), short("weight")),
        (call(b, false, |args, b| args.weight = b.halves(), good), halves("weight")),
        (call(b, false, |args, b| args.weight = b.elsewhere(), good), b.foreign("weight")),
        (call(b, false, |args, b| args.bias = Some(b.some()), good), surplus("bias")),
        (call(b, true, |args, _| args.bias = None, good), missing("bias")),
        (call(b, true, |args, b| args.bias = Some(b.last(3)), good), short("bias")),
        (call(b, false, |args, b| args.history = Some(b.some()), good), surplus("history")),
        (call(b, true, |args, _| args.history = None, good), missing("history")),
        (call(b, true, |args, b| args.history = Some(b.last(15)), good), short("history")),
        (call(b, false, |_, _| (), |out| RowsMut::contiguous(out.get(0).at(NUMBERS - 23))), short("y")),
        (call(b, false, |_, _| (), |out| RowsMut::strided(out.get(0), 3)), stride("y", 4)),
        (call(b, false, |_, _| (), |out| RowsMut::contiguous(out.get(1))), halves("y")),
        (call(b, false, |_, _| (), |out| RowsMut::contiguous(out.get(2))), b.foreign("y")),
        (
            call(b, false, |args, b| args.x = Rows::strided(b.some(), usize::MAX), good),
            Error::TooLarge { what: "x", sizes: vec![6, usize::MAX] },
        ),
        (
            call(b, false, |args, b| args.weight = b.some().at(usize::MAX), good),
            Error::TooLarge { what: "weight", sizes: vec![usize::MAX, 6] },
        ),
    ]);
}

#[test]
fn span_key() {
    /// Five outputs; a call that fits, but for what `change` does to it.
    fn call(
        bench: &Bench,
        full: bool,
        change: impl for<'a> FnOnce(&mut SpanKeyArgs<'a>, &'a Bench),
        output: impl for<'a> FnOnce(&'a mut Outputs) -> RowsMut<'a>,
    ) -> Result<()> {
        let [good, ..] = sequences();
        let problem = SpanKeyProblem::new(good.shape(), 4, 5, Window::causal(3)?, DType::F32)?
            .with_key_bias(full)
            .with_history(full)?;
        let operator = SpanKey::new(&bench.gpu, problem)?;
        let mut outputs = Outputs::of(bench);
        let mut args = SpanKeyArgs {
            sequences: &bench.good,
            x: Rows::contiguous(bench.some()),
            query: Rows::contiguous(bench.some()),
            depthwise: bench.some(),
            pointwise: bench.some(),
            key_bias: full.then(|| bench.some()),
            history: full.then(|| bench.some()),
            z: output(&mut outputs),
        };
        change(&mut args, bench);
        operator.launch(args)
    }
    let Some(bench) = Bench::new() else { return };
    let (b, good) = (&bench, Outputs::good);
    call(b, false, |_, _| (), good).unwrap();
    call(b, true, |_, _| (), good).unwrap();
    each([
        (call(b, false, |args, b| args.sequences = &b.other, good), other_sequences()),
        (call(b, false, |args, b| args.sequences = &b.later, good), missing("history")),
        (call(b, true, |args, b| args.sequences = &b.foreign, good), b.foreign("sequences")),
        (call(b, false, |args, b| args.x = Rows::contiguous(b.last(23)), good), short("x")),
        (call(b, false, |args, b| args.x = Rows::strided(b.some(), 3), good), stride("x", 4)),
        (call(b, false, |args, b| args.x = Rows::contiguous(b.halves()), good), halves("x")),
        (call(b, false, |args, b| args.query = Rows::contiguous(b.last(29)), good), short("query")),
        (call(b, false, |args, b| args.query = Rows::strided(b.some(), 4), good), stride("query", 5)),
        (call(b, false, |args, b| args.query = Rows::contiguous(b.halves()), good), halves("query")),
        (call(b, false, |args, b| args.query = Rows::contiguous(b.elsewhere()), good), b.foreign("query")),
        (call(b, false, |args, b| args.depthwise = b.last(11), good), short("depthwise")),
        (call(b, false, |args, b| args.depthwise = b.halves(), good), halves("depthwise")),
        (call(b, false, |args, b| args.pointwise = b.last(19), good), short("pointwise")),
        (call(b, false, |args, b| args.pointwise = b.elsewhere(), good), b.foreign("pointwise")),
        (call(b, false, |args, b| args.key_bias = Some(b.some()), good), surplus("key_bias")),
        (call(b, true, |args, _| args.key_bias = None, good), missing("key_bias")),
        (call(b, true, |args, b| args.key_bias = Some(b.last(4)), good), short("key_bias")),
        (call(b, false, |args, b| args.history = Some(b.some()), good), surplus("history")),
        (call(b, true, |args, _| args.history = None, good), missing("history")),
        (call(b, true, |args, b| args.history = Some(b.last(15)), good), short("history")),
        (call(b, false, |_, _| (), |out| RowsMut::contiguous(out.get(0).at(NUMBERS - 29))), short("z")),
        (call(b, false, |_, _| (), |out| RowsMut::strided(out.get(0), 4)), stride("z", 5)),
        (call(b, false, |_, _| (), |out| RowsMut::contiguous(out.get(1))), halves("z")),
        (call(b, false, |_, _| (), |out| RowsMut::contiguous(out.get(2))), b.foreign("z")),
    ]);
}

#[test]
fn linear() {
    /// Five rows, W [4, 3]; a call that fits, but for what `change` does to it.
    fn call(
        bench: &Bench,
        bias: bool,
        change: impl for<'a> FnOnce(&mut LinearArgs<'a>, &'a Bench),
        output: impl for<'a> FnOnce(&'a mut Outputs) -> RowsMut<'a>,
    ) -> Result<()> {
        let problem = LinearProblem::new(5, 3, 4, DType::F32)?.with_bias(bias);
        let mut outputs = Outputs::of(bench);
        let mut args = LinearArgs {
            x: Rows::contiguous(bench.some()),
            weight: bench.some(),
            bias: bias.then(|| bench.some()),
            residual: None,
            y: output(&mut outputs),
        };
        change(&mut args, bench);
        Linear::new(&bench.gpu, problem)?.launch(args)
    }
    /// The same of a GLU with everything: W [8, 3].
    fn gated(bench: &Bench, change: impl for<'a> FnOnce(&mut LinearArgs<'a>, &'a Bench)) -> Result<()> {
        let problem = LinearProblem::new(5, 3, 4, DType::F32)?.with_activation(Activation::Glu)?;
        let mut outputs = Outputs::of(bench);
        let mut args = LinearArgs {
            x: Rows::contiguous(bench.some()),
            weight: bench.some(),
            bias: Some(bench.some()),
            residual: Some(Rows::contiguous(bench.some())),
            y: Outputs::good(&mut outputs),
        };
        change(&mut args, bench);
        Linear::new(&bench.gpu, problem.with_bias(true).with_residual(true))?.launch(args)
    }
    let Some(bench) = Bench::new() else { return };
    let (b, good) = (&bench, Outputs::good);
    call(b, false, |_, _| (), good).unwrap();
    call(b, true, |_, _| (), good).unwrap();
    each([
        (call(b, false, |args, b| args.x = Rows::contiguous(b.last(14)), good), short("x")),
        (call(b, false, |args, b| args.x = Rows::strided(b.some(), 2), good), stride("x", 3)),
        (call(b, false, |args, b| args.weight = b.last(11), good), short("weight")),
        (call(b, false, |args, b| args.weight = b.halves(), good), halves("weight")),
        (call(b, false, |args, b| args.bias = Some(b.some()), good), surplus("bias")),
        (call(b, true, |args, _| args.bias = None, good), missing("bias")),
        (call(b, true, |args, b| args.bias = Some(b.elsewhere()), good), b.foreign("bias")),
        (call(b, false, |_, _| (), |out| RowsMut::strided(out.get(0), 3)), stride("y", 4)),
        (call(b, false, |_, _| (), |out| RowsMut::contiguous(out.get(1))), halves("y")),
        (call(b, false, |_, _| (), |out| RowsMut::contiguous(out.get(2))), b.foreign("y")),
        (
            call(b, false, |args, b| args.residual = Some(Rows::contiguous(b.some())), good),
            surplus("residual"),
        ),
    ]);
    gated(b, |_, _| ()).unwrap();
    each([
        (gated(b, |args, b| args.weight = b.last(23)), short("weight")),
        (gated(b, |args, b| args.bias = Some(b.last(7))), short("bias")),
        (gated(b, |args, _| args.residual = None), missing("residual")),
        (gated(b, |args, b| args.residual = Some(Rows::contiguous(b.last(19)))), short("residual")),
        (gated(b, |args, b| args.residual = Some(Rows::strided(b.some(), 3))), stride("residual", 4)),
        (gated(b, |args, b| args.residual = Some(Rows::contiguous(b.halves()))), halves("residual")),
        (gated(b, |args, b| args.residual = Some(Rows::contiguous(b.elsewhere()))), b.foreign("residual")),
    ]);
}

#[test]
fn history() {
    fn call(
        bench: &Bench,
        change: impl for<'a> FnOnce(&mut HistoryArgs<'a>, &'a Bench),
        output: impl for<'a> FnOnce(&'a mut Outputs) -> ElementsMut<'a>,
    ) -> Result<()> {
        let mut outputs = Outputs::of(bench);
        let mut args = HistoryArgs {
            sequences: &bench.later,
            x: Rows::contiguous(bench.some()),
            history: bench.some(),
            next: output(&mut outputs),
        };
        change(&mut args, bench);
        History::new(&bench.gpu, HistoryProblem::new(conv())?)?.launch(args)
    }
    let Some(bench) = Bench::new() else { return };
    let b = &bench;
    call(b, |_, _| (), |out| out.get(0)).unwrap();
    each([
        (call(b, |args, b| args.sequences = &b.other, |out| out.get(0)), other_sequences()),
        (call(b, |args, b| args.x = Rows::contiguous(b.last(23)), |out| out.get(0)), short("x")),
        (call(b, |args, b| args.history = b.last(15), |out| out.get(0)), short("history")),
        (call(b, |_, _| (), |out| out.get(0).at(NUMBERS - 15)), short("next")),
        (call(b, |_, _| (), |out| out.get(1)), halves("next")),
    ]);
}

#[test]
fn attention() {
    /// Self-attention of two heads of two channels; a call that fits, but for what `change` does to it.
    fn call(
        bench: &Bench,
        kind: AttentionKind,
        change: impl for<'a> FnOnce(&mut AttentionArgs<'a>, &'a Bench),
        output: impl for<'a> FnOnce(&'a mut Outputs) -> RowsMut<'a>,
        scratch: impl for<'a> FnOnce(&'a mut Outputs) -> Option<ElementsMut<'a>>,
    ) -> Result<()> {
        let [shape, ..] = sequences().map(|list| list.shape());
        let operator =
            Attention::new(&bench.gpu, AttentionProblem::new(shape, shape, 2, 2, DType::F32)?, kind)?;
        let [mut outputs, mut memory] = [Outputs::of(bench), Outputs::of(bench)];
        let rows = Rows::contiguous(bench.some());
        let (queries, keys) = (&bench.good, &bench.good);
        let mut args = AttentionArgs { queries, keys, q: rows, k: rows, v: rows, y: output(&mut outputs) };
        change(&mut args, bench);
        operator.launch(args, scratch(&mut memory))
    }
    let Some(bench) = Bench::new() else { return };
    let (b, good) = (&bench, Outputs::good);
    // Two heads, six queries, three keys and as many more as fill a sector.
    const SCRATCH: usize = 2 * 6 * 8;
    for kind in [AttentionKind::Naive, AttentionKind::Fused] {
        fn enough<'a>(out: &'a mut Outputs) -> Option<ElementsMut<'a>> {
            Some(out.get(0).at(NUMBERS - SCRATCH))
        }
        call(b, kind, |_, _| (), good, enough).unwrap();
        each([
            (call(b, kind, |args, b| args.queries = &b.other, good, enough), other_sequences()),
            (call(b, kind, |args, b| args.keys = &b.other, good, enough), other_sequences()),
            (call(b, kind, |args, b| args.keys = &b.foreign, good, enough), b.foreign("sequences")),
            (call(b, kind, |args, b| args.q = Rows::contiguous(b.last(23)), good, enough), short("q")),
            (call(b, kind, |args, b| args.k = Rows::contiguous(b.halves()), good, enough), halves("k")),
            (call(b, kind, |args, b| args.k = Rows::strided(b.some(), 3), good, enough), stride("k", 4)),
            (call(b, kind, |args, b| args.v = Rows::contiguous(b.last(23)), good, enough), short("v")),
            (call(b, kind, |args, b| args.v = Rows::contiguous(b.elsewhere()), good, enough), b.foreign("v")),
            (call(b, kind, |_, _| (), |out| RowsMut::strided(out.get(0), 3), enough), stride("y", 4)),
            (call(b, kind, |_, _| (), |out| RowsMut::contiguous(out.get(1)), enough), halves("y")),
        ]);
    }
    let (naive, fused) = (AttentionKind::Naive, AttentionKind::Fused);
    call(b, fused, |_, _| (), good, |_| None).unwrap();
    each([
        (call(b, naive, |_, _| (), good, |_| None), missing("scratch")),
        (call(b, naive, |_, _| (), good, |out| Some(out.get(1))), halves("scratch")),
        (call(b, naive, |_, _| (), good, |out| Some(out.get(2))), b.foreign("scratch")),
        (call(b, naive, |_, _| (), good, |out| Some(out.get(0).at(NUMBERS - SCRATCH + 1))), short("scratch")),
    ]);
    // More channels of a head than there are registers for.
    let [shape, ..] = sequences().map(|list| list.shape());
    let problem = AttentionProblem::new(shape, shape, 1, 257, DType::F16).unwrap();
    Attention::new(&bench.gpu, problem, naive).unwrap();
    let limit =
        Error::Limit { what: "channels of a head of", of: "fused attention", needed: 257, limit: 256 };
    each([(Attention::new(&bench.gpu, problem, fused), limit)]);
}
