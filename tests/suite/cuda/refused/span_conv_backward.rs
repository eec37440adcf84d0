//! Every tensor of a call in turn, with everything that can be wrong with it.

use lightspan::cuda::{
    DeviceSequences, Elements, ElementsMut, Gpu, Rows, RowsMut, SpanConvBackward, SpanConvBackwardArgs,
};
use lightspan::problem::{Convolution, SpanConvBackwardProblem, SpanConvProblem, SpanConvWanted};
use lightspan::{DType, DropoutRate, Error, Result, Sequences, Tensor, Window};

use super::{Bench, missing, surplus};

const TOKENS: usize = 7;
/// C, A, H and K; no two tensors of different sizes have as many numbers.
const CHANNELS: usize = 5;
const OUTPUTS: usize = 8;
const HEADS: usize = 2;
const WIDTH: usize = 3;

/// Tensors that are read, and gradients; scratch comes last.
const INPUTS: usize = 9;
const GRADIENTS: usize = 9;

/// What all outputs and scratch hold before a call; no gradient of zeros is this.
const MARK: f32 = -7.0;

/// How many launches `run` puts into the stream of an emulated device; on a GPU nobody counts them.
#[cfg_attr(not(feature = "emulator"), expect(unused_variables))]
fn launches(gpu: &Gpu, run: impl FnOnce()) -> Option<usize> {
    #[cfg(feature = "emulator")]
    gpu.start_profile();
    run();
    #[cfg(feature = "emulator")]
    if gpu.is_emulated() {
        return Some(gpu.take_profile().len());
    }
    None
}

/// Two sequences whose list lies on the device.
fn sequences() -> Sequences {
    Sequences::packed(&[0, 2, TOKENS]).unwrap()
}

/// A kind of call.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// Of tokens, of parameters and of their gradients.
    types: [DType; 3],
    /// Whether there are all biases, or none.
    biases: bool,
    dropout: bool,
    wanted: SpanConvWanted,
}

impl Kind {
    const F32: Kind =
        Kind { types: [DType::F32; 3], biases: true, dropout: false, wanted: SpanConvWanted::ALL };

    fn operator(self, gpu: &Gpu) -> Result<SpanConvBackward> {
        let [dtype, parameters, gradients] = self.types;
        let window = Window::same(WIDTH).unwrap();
        let values = Convolution::new(sequences().shape(), OUTPUTS, HEADS, window, dtype)
            .and_then(|conv| conv.with_parameters(parameters))
            .unwrap()
            .with_bias(self.biases)
            .with_dropout(self.dropout.then(|| DropoutRate::new(0.5).unwrap()));
        let forward = SpanConvProblem::new(CHANNELS, values)
            .unwrap()
            .with_key_bias(self.biases)
            .with_weight_bias(self.biases);
        let wanted = SpanConvWanted { parameters: Some(gradients), ..self.wanted };
        SpanConvBackward::new(gpu, SpanConvBackwardProblem::new(forward, wanted).unwrap())
    }

    /// What the call reads, what it writes, and scratch, in the order of its arguments.
    fn tensors(self, scratch: u64) -> Vec<Asked> {
        let [tokens, parameters, gradients] = self.types;
        let [x, key] = [[TOKENS, CHANNELS], [TOKENS, OUTPUTS]];
        let (filters, matrix) = ([1, CHANNELS * WIDTH], [1, OUTPUTS * CHANNELS]);
        let (weight, weight_bias, bias) = ([1, HEADS * WIDTH * OUTPUTS], [1, HEADS * WIDTH], [1, OUTPUTS]);
        let read = |name, sizes, dtype| Asked { name, sizes, dtype, there: true, optional: false };
        let some = |name, sizes, there| Asked { there, optional: true, ..read(name, sizes, parameters) };
        let inputs = [
            read("x", x, tokens),
            read("query", key, tokens),
            read("value", key, tokens),
            read("depthwise", filters, parameters),
            read("pointwise", matrix, parameters),
            some("key_bias", bias, self.biases),
            read("weight", weight, parameters),
            some("weight_bias", weight_bias, self.biases),
            read("dy", key, tokens),
        ];
        let (wanted, biases) = (self.wanted, self.biases);
        let outputs = [
            ("dx", x, tokens, wanted.x),
            ("dquery", key, tokens, wanted.query),
            ("ddepthwise", filters, gradients, wanted.depthwise),
            ("dpointwise", matrix, gradients, wanted.pointwise),
            ("dkey_bias", bias, gradients, wanted.key_bias && biases),
            ("dvalue", key, tokens, wanted.value),
            ("dweight", weight, gradients, wanted.weight),
            ("dweight_bias", weight_bias, gradients, wanted.weight_bias && biases),
            ("dbias", bias, gradients, wanted.bias && biases),
        ];
        let output =
            |(name, sizes, dtype, there)| Asked { there, optional: true, ..read(name, sizes, dtype) };
        let scratch = Asked {
            there: scratch > 0,
            optional: scratch > 0,
            ..read("scratch", [1, scratch as usize], DType::F32)
        };
        inputs.into_iter().chain(outputs.map(output)).chain([scratch]).collect()
    }
}

/// What is asked of a tensor.
#[derive(Clone, Copy, Debug)]
struct Asked {
    name: &'static str,
    /// Tokens and channels; others are one row.
    sizes: [usize; 2],
    dtype: DType,
    /// Whether the call has it, and whether it could be otherwise.
    there: bool,
    optional: bool,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// There is one number too few.
    Short,
    /// Rows that overlap.
    Narrow,
    Type(DType),
    Elsewhere,
    Missing,
    Surplus,
}

impl Asked {
    fn faults(&self) -> Vec<Fault> {
        if !self.there {
            return if self.optional { vec![Fault::Surplus] } else { vec![] };
        }
        let types = DType::ALL.into_iter().filter(|&dtype| dtype != self.dtype).map(Fault::Type);
        [Fault::Short, Fault::Elsewhere]
            .into_iter()
            .chain(types)
            .chain((self.sizes[0] > 1).then_some(Fault::Narrow))
            .chain(self.optional.then_some(Fault::Missing))
            .collect()
    }

    fn error(&self, fault: Fault, bench: &Bench) -> Error {
        let ([tokens, channels], tensor) = (self.sizes, self.name);
        let len = tokens * channels;
        match fault {
            Fault::Short => Error::Length { tensor, expected: len, got: len - 1 },
            Fault::Narrow => Error::Stride { tensor, stride: channels - 1, channels },
            Fault::Type(got) => Error::DType { tensor, expected: vec![self.dtype], got },
            Fault::Elsewhere => bench.foreign(tensor),
            Fault::Missing => missing(tensor),
            Fault::Surplus => surplus(tensor),
        }
    }

    /// Just as many numbers as are asked for, but for the fault.
    fn given(&self, fault: Option<Fault>, number: f32, bench: &Bench) -> Given {
        let [tokens, channels] = self.sizes;
        let (mut len, mut stride, mut dtype, mut device) =
            (tokens * channels, channels, self.dtype, &bench.device);
        match fault {
            Some(Fault::Short) => len -= 1,
            Some(Fault::Narrow) => stride -= 1,
            Some(Fault::Type(other)) => dtype = other,
            Some(Fault::Elsewhere) => device = bench.elsewhere.device(),
            Some(Fault::Missing | Fault::Surplus) | None => {}
        }
        let there = self.there != matches!(fault, Some(Fault::Missing | Fault::Surplus));
        let tensor = || Tensor::from_f32(&vec![number; len], &[len], dtype, device).unwrap();
        Given { tensor: there.then(tensor), stride }
    }
}

/// Memory of one tensor, or none.
struct Given {
    tensor: Option<Tensor>,
    stride: usize,
}

impl Given {
    fn some(&self) -> Option<Elements<'_>> {
        self.tensor.as_ref().map(|tensor| tensor.cuda().unwrap())
    }

    fn elements(&self) -> Elements<'_> {
        self.some().unwrap()
    }

    fn rows(&self) -> Rows<'_> {
        Rows::strided(self.elements(), self.stride)
    }

    fn elements_mut(&mut self) -> Option<ElementsMut<'_>> {
        self.tensor.as_mut().map(|tensor| tensor.cuda_mut().unwrap())
    }

    fn rows_mut(&mut self) -> Option<RowsMut<'_>> {
        let stride = self.stride;
        self.elements_mut().map(|elements| RowsMut::strided(elements, stride))
    }

    fn holds(&self, number: f32) -> bool {
        self.tensor.as_ref().is_none_or(|tensor| tensor.to_f32().unwrap().iter().all(|&n| n == number))
    }
}

/// A prepared call, and how it is to be made.
struct Call<'a> {
    bench: &'a Bench,
    kind: Kind,
    operator: SpanConvBackward,
    asked: Vec<Asked>,
    list: DeviceSequences,
}

impl<'a> Call<'a> {
    fn new(bench: &'a Bench, kind: Kind) -> Self {
        let operator = kind.operator(&bench.gpu).unwrap();
        let asked = kind.tensors(operator.scratch_len());
        let list = DeviceSequences::new(&bench.gpu, &sequences()).unwrap();
        Call { bench, kind, operator, asked, list }
    }

    /// The call with a fault in one of its tensors, where there is to be one. One that is refused launches and writes nothing;
    /// any other writes every gradient.
    fn run(&self, fault: Option<(usize, Fault)>, list: &DeviceSequences, seed: Option<u64>) -> Result<()> {
        let mut tensors: Vec<_> = self
            .asked
            .iter()
            .enumerate()
            .map(|(i, asked)| {
                let fault = fault.filter(|&(at, _)| at == i).map(|(_, fault)| fault);
                asked.given(fault, if i < INPUTS { 0.0 } else { MARK }, self.bench)
            })
            .collect();
        let mut got = Ok(());
        let launches = launches(&self.bench.gpu, || got = launch(&self.operator, &mut tensors, list, seed));
        let written = &tensors[INPUTS..];
        if got.is_err() {
            assert!(launches.is_none_or(|launches| launches == 0), "{launches:?} launches of {fault:?}");
            assert!(written.iter().all(|tensor| tensor.holds(MARK)), "{fault:?} and yet written");
        } else {
            assert!(launches.is_none_or(|launches| (launches > 0) == self.wants_any()));
            assert!(
                written[..GRADIENTS].iter().all(|tensor| tensor.holds(0.0)),
                "gradients of nothing are zero"
            );
        }
        got
    }

    fn wants_any(&self) -> bool {
        self.asked[INPUTS..][..GRADIENTS].iter().any(|gradient| gradient.there)
    }

    fn good(&self) -> Result<()> {
        self.run(None, &self.list, self.kind.dropout.then_some(1))
    }
}

fn launch(
    operator: &SpanConvBackward,
    tensors: &mut [Given],
    sequences: &DeviceSequences,
    seed: Option<u64>,
) -> Result<()> {
    let (inputs, outputs) = tensors.split_at_mut(INPUTS);
    let [x, query, value, depthwise, pointwise, key_bias, weight, weight_bias, dy] = inputs else {
        unreachable!()
    };
    let [dx, dquery, ddepthwise, dpointwise, dkey_bias, dvalue, dweight, dweight_bias, dbias, scratch] =
        outputs
    else {
        unreachable!()
    };
    let args = SpanConvBackwardArgs {
        sequences,
        x: x.rows(),
        query: query.rows(),
        value: value.rows(),
        depthwise: depthwise.elements(),
        pointwise: pointwise.elements(),
        key_bias: key_bias.some(),
        weight: weight.elements(),
        weight_bias: weight_bias.some(),
        seed,
        dy: dy.rows(),
        dx: dx.rows_mut(),
        dquery: dquery.rows_mut(),
        ddepthwise: ddepthwise.elements_mut(),
        dpointwise: dpointwise.elements_mut(),
        dkey_bias: dkey_bias.elements_mut(),
        dvalue: dvalue.rows_mut(),
        dweight: dweight.elements_mut(),
        dweight_bias: dweight_bias.elements_mut(),
        dbias: dbias.elements_mut(),
    };
    operator.launch(args, scratch.elements_mut())
}

/// Fails unless the call goes as it is, and is refused with each fault of each tensor.
fn check_faults(bench: &Bench, kind: Kind) {
    let call = Call::new(bench, kind);
    call.good().unwrap();
    for (i, asked) in call.asked.iter().enumerate() {
        for fault in asked.faults() {
            let got = call.run(Some((i, fault)), &call.list, kind.dropout.then_some(1));
            assert_eq!(got, Err(asked.error(fault, bench)), "{fault:?} of {} in {kind:?}", asked.name);
        }
    }
}

#[test]
fn span_conv_backward() {
    let Some(bench) = Bench::alone() else { return };
    let (f32, f16, bf16) = (DType::F32, DType::F16, DType::BF16);
    for types in [[f32; 3], [f16; 3], [f16, f16, f32], [bf16, f32, f32]] {
        for biases in [true, false] {
            check_faults(&bench, Kind { types, biases, ..Kind::F32 });
        }
    }
}

/// Each gradient alone: what it needs is read, and no other gradient may be given.
#[test]
fn span_conv_backward_of_some() {
    let Some(bench) = Bench::alone() else { return };
    let none = SpanConvWanted::NONE;
    for wanted in [
        none,
        SpanConvWanted { x: true, ..none },
        SpanConvWanted { query: true, ..none },
        SpanConvWanted { depthwise: true, ..none },
        SpanConvWanted { pointwise: true, ..none },
        SpanConvWanted { key_bias: true, ..none },
        SpanConvWanted { value: true, ..none },
        SpanConvWanted { weight: true, ..none },
        SpanConvWanted { weight_bias: true, ..none },
        SpanConvWanted { bias: true, ..none },
    ] {
        check_faults(&bench, Kind { wanted, ..Kind::F32 });
    }
}

#[test]
fn span_conv_backward_of_other_sequences_and_seeds() {
    let Some(bench) = Bench::alone() else { return };
    let [plain, dropped] = [false, true].map(|dropout| Call::new(&bench, Kind { dropout, ..Kind::F32 }));
    plain.good().unwrap();
    dropped.good().unwrap();
    let good = sequences();
    let list = |gpu, sequences: &Sequences| DeviceSequences::new(gpu, sequences).unwrap();
    // As many tokens, in more sequences, or in another layout.
    let others =
        [Sequences::packed(&[0, 2, 4, TOKENS]), Sequences::batch(1, TOKENS)].map(|list| list.unwrap());
    for call in [&plain, &dropped] {
        let seed = call.kind.dropout.then_some(1);
        for other in &others {
            let expected =
                Error::Sequences { expected: good.shape().to_string(), got: other.shape().to_string() };
            assert_eq!(call.run(None, &list(&bench.gpu, other), seed), Err(expected.clone()));
            assert_eq!(call.operator.traffic(other), Err(expected));
        }
        let later = list(&bench.gpu, &good.clone().after(&[0, 1]).unwrap());
        assert_eq!(call.run(None, &later, seed), Err(missing("history")));
        let foreign = list(bench.elsewhere.device().cuda_gpu().unwrap(), &good);
        assert_eq!(call.run(None, &foreign, seed), Err(bench.foreign("sequences")));
    }
    assert_eq!(plain.run(None, &plain.list, Some(1)), Err(surplus("seed")));
    assert_eq!(dropped.run(None, &dropped.list, None), Err(missing("seed")));
}

/// A device of one block at a time has no room for the key, but for the sums of one tile: only what is needed is planned.
#[cfg(feature = "emulator")]
#[test]
fn span_conv_backward_on_a_device_of_one_block() {
    use lightspan::{Device, cuda::Limits};
    let limits = Limits { blocks: 1, ..Limits::A100 };
    let bench = Bench::on(Device::cuda_emulated_with(limits)).unwrap();
    let none = SpanConvWanted::NONE;
    check_faults(&bench, Kind { wanted: SpanConvWanted { bias: true, ..none }, ..Kind::F32 });
    for wanted in [SpanConvWanted::ALL, SpanConvWanted { value: true, ..none }] {
        let got = Kind { wanted, ..Kind::F32 }.operator(&bench.gpu).map(|_| ());
        let expected = Error::Limit { what: "blocks of", of: "span_key", needed: 2, limit: 1 };
        assert_eq!(got, Err(expected));
    }
}
