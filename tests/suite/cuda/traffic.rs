//! What the emulator counts is what the plans predict, and that is little more than must move.

mod append;
mod attention;
pub mod dynamic_conv;
pub mod dynamic_conv_backward;
mod light_conv_backward;
mod norm;
mod products_backward;
mod span_conv_backward;
mod tables;

use lightspan::cuda::{Gpu, LaunchProfile, LightConv, Limits, Linear, SpanKey, Traffic};
use lightspan::problem::{Activation, Convolution, LightConvProblem, LinearProblem, SpanKeyProblem};
use lightspan::{DType, Device, Normalize, Sequences, Tensor, Window, ops};
use proptest::prelude::*;

use crate::linear;
use crate::support::{Numbers, config, sequences};

/// What `run` did on an emulated device.
fn profiled_launches<R>(device: &Device, run: impl FnOnce() -> R) -> Vec<LaunchProfile> {
    let gpu = device.cuda_gpu().unwrap();
    gpu.start_profile();
    run();
    gpu.take_profile()
}

/// The same, in one launch.
fn profiled(device: &Device, run: impl FnOnce() -> Tensor) -> LaunchProfile {
    let mut launches = profiled_launches(device, run);
    assert_eq!(launches.len(), 1);
    launches.remove(0)
}

fn assert_counted(launch: &LaunchProfile, predicted: Traffic) {
    assert_all_counted(std::slice::from_ref(launch), predicted);
}

fn assert_all_counted(launches: &[LaunchProfile], predicted: Traffic) {
    let sectors = launches.iter().map(|launch| {
        let profile = &launch.profile;
        [profile.global_loads.sectors, profile.global_stores.sectors]
    });
    let [loads, stores] = sectors.fold([0; 2], |[a, b], [c, d]| [a + c, b + d]);
    let expected = (predicted.read + predicted.parameters, predicted.written);
    let entries: Vec<_> = launches.iter().map(|launch| launch.entry).collect();
    assert_eq!((loads, stores), expected, "sectors read and written by {entries:?}");
}

/// Bank conflicts of a launch, and all passes over the banks.
pub fn conflicts(launch: &LaunchProfile) -> [u64; 2] {
    let (loads, stores) = (launch.profile.shared_loads, launch.profile.shared_stores);
    [loads.conflicts() + stores.conflicts(), loads.passes + stores.passes]
}

/// Runs a light convolution without a bias, and holds its traffic against the prediction.
fn light_conv(
    gpu: &Gpu,
    device: &Device,
    conv: Convolution,
    sequences: &Sequences,
) -> (LaunchProfile, Traffic) {
    let predicted = LightConv::new(gpu, LightConvProblem::new(conv)).unwrap().traffic(sequences).unwrap();
    let launch = run_light_conv(device, conv, sequences);
    assert_counted(&launch, predicted);
    (launch, predicted)
}

/// Runs a light convolution without a bias.
fn run_light_conv(device: &Device, conv: Convolution, sequences: &Sequences) -> LaunchProfile {
    let problem = LightConvProblem::new(conv);
    let mut numbers = Numbers::new(7);
    let x = numbers.draw(&sequences.shape().tensor(conv.channels()), conv.dtype(), 1.0).on(device);
    let weight = numbers.draw(&problem.weight_shape(), conv.parameters(), 1.0).on(device);
    let history =
        conv.has_history().then(|| numbers.draw(&conv.history_shape(), conv.dtype(), 1.0).on(device));
    let options = ops::ConvOptions {
        bias: None,
        normalize: conv.normalize(),
        sequences: Some(sequences),
        history: history.as_ref(),
        dropout: None,
    };
    profiled(device, || ops::light_conv(&x, &weight, conv.window(), &options).unwrap())
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn light_conv_reads_and_writes_what_is_predicted(
        sequences in prop_oneof![sequences(1..5, 1..60), sequences(1..3, 300..900)],
        past in prop::collection::vec(0usize..100, 5),
        (width, dilation, left) in (1usize..140, 1usize..4, any::<prop::sample::Index>()),
        (columns, head_channels) in (1usize..4, prop::sample::select(&[1usize, 8, 16, 64][..])),
        (dtype, wide) in (prop::sample::select(&DType::ALL[..]), any::<bool>()),
        (softmax, history) in (any::<bool>(), any::<bool>()),
    ) {
        let tokens = sequences.shape().tokens();
        if tokens == 0 {
            return Ok(());
        }
        let reach = (width - 1) * dilation;
        let left = if history { reach } else { left.index(reach + 1) };
        let count = sequences.as_slice().len();
        let sequences = if history { sequences.after(&past[..count]).unwrap() } else { sequences };
        let channels = 64 * columns;
        let window = Window::new(width, dilation, left).unwrap();
        let conv = Convolution::new(sequences.shape(), channels, channels / head_channels, window, dtype)
            .and_then(|conv| conv.with_parameters(if wide { DType::F32 } else { dtype }))
            .and_then(|conv| conv.with_history(history))
            .unwrap()
            .with_normalize(if softmax { Normalize::Softmax } else { Normalize::None });
        let device = Device::cuda_emulated();
        light_conv(device.cuda_gpu().unwrap(), &device, conv, &sequences);
    }
}

/// Long sequences move at most 1.15 times what must move, whatever the window: halos are short beside the tiles.
#[test]
fn halos_are_short() {
    let device = Device::cuda_emulated();
    let sequences = Sequences::batch(2, 20_000).unwrap();
    let mut shares = vec![];
    for (dtype, head_channels) in [(DType::F32, 16), (DType::BF16, 4), (DType::F16, 64)] {
        for width in [3, 31, 63, 127] {
            let window = Window::causal(width).unwrap();
            let conv = Convolution::new(sequences.shape(), 64, 64 / head_channels, window, dtype).unwrap();
            let (_, predicted) = light_conv(device.cuda_gpu().unwrap(), &device, conv, &sequences);
            let share = predicted.token_bytes() as f64 / LightConvProblem::new(conv).bytes() as f64;
            println!("{dtype}, {head_channels} channels a head, K = {width}: {share:.3} of the least");
            shares.push(share);
        }
    }
    assert!(shares.iter().all(|share| (1.0..=1.15).contains(share)), "{shares:?}");
}

/// The form by products of matrices meets no bank of the shared memory twice.
#[test]
fn matrices_do_not_fight_for_banks() {
    let device = Device::cuda_emulated();
    for width in [7, 31, 63, 127] {
        let sequences = Sequences::batch(1, 5_000).unwrap();
        let window = Window::same(width).unwrap();
        let conv = Convolution::new(sequences.shape(), 128, 2, window, DType::BF16).unwrap();
        let (launch, _) = light_conv(device.cuda_gpu().unwrap(), &device, conv, &sequences);
        let profile = &launch.profile;
        let conflicts = [profile.shared_loads.conflicts(), profile.shared_stores.conflicts()];
        assert_eq!(conflicts, [0, 0], "{}, on {} blocks", launch.entry, launch.grid);
        assert!(profile.matrix_multiply_adds > 0);
    }
}

/// Bank conflicts of light convolution by multiply-adds, and all passes over the banks. Tokens are rows of so many bytes,
/// of heads of two channels; wide windows divide them into narrower ones. All taps are in range: the past is there, and
/// sequences are whole octets of outputs.
fn multiply_add_conflicts(
    device: &Device,
    row: usize,
    dtype: DType,
    width: usize,
    dilation: usize,
) -> [u64; 2] {
    let sequences = Sequences::batch(2, 2048 / (8 * dilation) * 8 * dilation).unwrap();
    let reach = (width - 1) * dilation;
    let sequences = sequences.after(&[reach, reach]).unwrap();
    let (channels, window) = (row / dtype.size(), Window::new(width, dilation, reach).unwrap());
    let conv = Convolution::new(sequences.shape(), channels, channels / 2, window, dtype)
        .and_then(|conv| conv.with_history(true))
        .unwrap();
    let launch = run_light_conv(device, conv, &sequences);
    assert_eq!(launch.entry, "light_conv");
    conflicts(&launch)
}

/// Where rows of the shared memory are a power of two, light convolution by multiply-adds meets no bank twice.
#[test]
fn multiply_adds_do_not_fight_for_banks() {
    let device = Device::cuda_emulated();
    for dtype in DType::ALL {
        for row in [16, 32, 64, 128] {
            for (width, dilation) in
                [(3, 1), (31, 1), (127, 1), (8, 3), (31, 3), (8, 16), (16, 250), (31, 250)]
            {
                let [conflicts, _] = multiply_add_conflicts(&device, row, dtype, width, dilation);
                assert_eq!(conflicts, 0, "rows of {row} bytes, {dtype}, K = {width}, r = {dilation}");
            }
        }
    }
}

/// Where they are not, it meets few: where a block copies rows that are no whole octet, and where a pass reads the taps of
/// heads that are more than eight apart.
#[test]
fn multiply_adds_on_odd_rows_fight_little_for_banks() {
    let device = Device::cuda_emulated();
    for dtype in DType::ALL {
        for row in [48, 80, 96, 112] {
            for (width, dilation) in [(3, 1), (31, 1), (127, 1), (31, 3), (8, 16), (31, 250)] {
                let [conflicts, passes] = multiply_add_conflicts(&device, row, dtype, width, dilation);
                let share = conflicts as f64 / passes as f64;
                println!("rows of {row} bytes, {dtype}, K = {width}, r = {dilation}: {share:.3}");
                assert!(share <= 0.1, "rows of {row} bytes, {dtype}, K = {width}, r = {dilation}: {share}");
            }
        }
    }
}

#[test]
fn linear_reads_and_writes_what_is_predicted() {
    let device = Device::cuda_emulated();
    let gpu = device.cuda_gpu().unwrap();
    let types = DType::ALL.into_iter().flat_map(|dtype| [(dtype, dtype), (dtype, DType::F32)]);
    for (dtype, parameters) in types {
        for (rows, inputs, outputs) in
            [(1, 64, 16), (130, 96, 192), (257, 256, 320), (300, 16, 64), (2500, 32, 1024)]
        {
            for bias in [false, true] {
                let problem = LinearProblem::new(rows, inputs, outputs, dtype)
                    .and_then(|problem| problem.with_parameters(parameters))
                    .unwrap()
                    .with_bias(bias);
                let mut numbers = Numbers::new(3);
                let x = numbers.draw(&[rows, inputs], dtype, 1.0).on(&device);
                let weight = numbers.draw(&[outputs, inputs], parameters, 1.0).on(&device);
                let biases = numbers.draw(&[outputs], parameters, 1.0).on(&device);
                let options = ops::LinearOptions { bias: bias.then_some(&biases), ..Default::default() };
                let launch = profiled(&device, || ops::linear(&x, &weight, &options).unwrap());
                assert_counted(&launch, Linear::new(gpu, problem).unwrap().traffic());
                // f32 never goes to the tensor cores; what goes there, goes with all of it.
                let products = launch.profile.matrix_multiply_adds;
                let all = (rows * inputs * outputs) as u64;
                assert!(if dtype == DType::F32 { products == 0 } else { products >= all }, "{products}");
                let profile = &launch.profile;
                let conflicts = [profile.shared_loads.conflicts(), profile.shared_stores.conflicts()];
                assert_eq!(conflicts, [0, 0], "{} of {rows} x {inputs} x {outputs}, {dtype}", launch.entry);
            }
        }
    }
}

/// Activations, residuals and groups, with big tiles and small ones.
#[test]
fn finished_linear_reads_and_writes_what_is_predicted() {
    let types = DType::ALL.into_iter().flat_map(|dtype| [(dtype, dtype), (dtype, DType::F32)]);
    let kinds = [
        (Activation::Gelu, false, 1),
        (Activation::GeluTanh, true, 2),
        (Activation::Glu, false, 1),
        (Activation::Glu, true, 1),
        (Activation::Identity, true, 1),
        (Activation::Relu, false, 3),
    ];
    for ((dtype, parameters), device) in
        types.flat_map(|types| [Device::cuda_emulated(), few_multiprocessors()].map(|device| (types, device)))
    {
        for ((activation, residual, groups), [rows, inputs, outputs]) in
            kinds.into_iter().flat_map(|kind| [[1, 64, 16], [150, 96, 176]].map(|sizes| (kind, sizes)))
        {
            let problem = LinearProblem::new(rows, groups * inputs, groups * outputs, dtype)
                .and_then(|problem| problem.with_parameters(parameters)?.with_groups(groups))
                .and_then(|problem| problem.with_activation(activation))
                .unwrap()
                .with_bias(true)
                .with_residual(residual);
            let call = linear::Call::draw(problem, 3);
            let [x, weight] = [&call.x, &call.weight].map(|values| values.on(&device));
            let [bias, residual] =
                [&call.bias, &call.residual].map(|values| values.as_ref().map(|v| v.on(&device)));
            let (bias, residual) = (bias.as_ref(), residual.as_ref());
            let options = ops::LinearOptions { bias, activation, residual, groups };
            let launch = profiled(&device, || ops::linear(&x, &weight, &options).unwrap());
            assert_counted(&launch, Linear::new(device.cuda_gpu().unwrap(), problem).unwrap().traffic());
            let profile = &launch.profile;
            let conflicts = [profile.shared_loads.conflicts(), profile.shared_stores.conflicts()];
            assert_eq!(conflicts, [0, 0], "{} of {problem:?}", launch.entry);
        }
    }
}

/// A device on which few tiles are enough for large blocks.
fn few_multiprocessors() -> Device {
    Device::cuda_emulated_with(Limits { multiprocessors: 1, ..Limits::A100 })
}

/// Runs a span-aware key without a bias, and holds its traffic against the prediction.
fn span_key(device: &Device, problem: SpanKeyProblem, sequences: &Sequences) -> LaunchProfile {
    let predicted = SpanKey::new(device.cuda_gpu().unwrap(), problem).unwrap().traffic(sequences).unwrap();
    let (conv, outputs) = (problem.depthwise(), problem.outputs());
    let (channels, dtype, parameters) = (conv.channels(), conv.dtype(), conv.parameters());
    let mut numbers = Numbers::new(7);
    let mut draw = |shape: &[usize], dtype| numbers.draw(shape, dtype, 1.0).on(device);
    let x = draw(&sequences.shape().tensor(channels), dtype);
    let query = draw(&sequences.shape().tensor(outputs), dtype);
    let depthwise = draw(&[channels, conv.window().width()], parameters);
    let pointwise = draw(&[outputs, channels], parameters);
    let history = conv.has_history().then(|| draw(&conv.history_shape(), dtype));
    let tensors = ops::SpanKeyTensors { x: &x, query: &query, depthwise: &depthwise, pointwise: &pointwise };
    let options = ops::SpanKeyOptions {
        sequences: Some(sequences),
        history: history.as_ref(),
        output: Some(problem.output()),
        ..Default::default()
    };
    let launch = profiled(device, || ops::span_key(&tensors, conv.window(), &options).unwrap());
    assert_counted(&launch, predicted);
    launch
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn span_key_reads_and_writes_what_is_predicted(
        sequences in prop_oneof![sequences(1..5, 1..60), sequences(1..3, 100..300)],
        past in prop::collection::vec(0usize..100, 5),
        (width, dilation, left) in (1usize..200, 1usize..4, any::<prop::sample::Index>()),
        (channels, outputs) in (1usize..6, 1usize..32),
        (few, dtype, wide, output) in (any::<bool>(), prop::sample::select(&DType::ALL[..]), any::<bool>(), any::<bool>()),
        history in any::<bool>(),
    ) {
        let tokens = sequences.shape().tokens();
        if tokens == 0 {
            return Ok(());
        }
        let reach = (width - 1) * dilation;
        let left = if history { reach } else { left.index(reach + 1) };
        let count = sequences.as_slice().len();
        let sequences = if history { sequences.after(&past[..count]).unwrap() } else { sequences };
        let window = Window::new(width, dilation, left).unwrap();
        let either = |wide| if wide { DType::F32 } else { dtype };
        let problem = SpanKeyProblem::new(sequences.shape(), 16 * channels, 16 * outputs, window, dtype)
            .and_then(|problem| {
                problem.with_parameters(either(wide))?.with_output(either(output))?.with_history(history)
            })
            .unwrap();
        let launch = span_key(&if few { few_multiprocessors() } else { Device::cuda_emulated() }, problem, &sequences);
        // f32 never goes to the tensor cores; what goes there, goes with all of it, in so many parts.
        let products = launch.profile.matrix_multiply_adds;
        let outputs = (sequences.as_slice().iter().map(|sequence| sequence.length).sum::<usize>()
            * problem.outputs()
            * problem.depthwise().channels()) as u64;
        let parts = match (dtype, either(wide)) {
            (DType::F32, _) => 0,
            (DType::BF16, DType::BF16) => 3,
            (DType::F16, DType::F16) => 5,
            _ => 6,
        };
        prop_assert!(products >= parts * outputs && (parts > 0 || products == 0), "{products}");
    }
}

/// Only the taps, which come in as they lie, meet a bank twice: stores, of an octet of one channel that is followed by one
/// of another.
#[test]
fn span_keys_fight_little_for_banks() {
    let types = DType::ALL.into_iter().flat_map(|dtype| [(dtype, dtype), (dtype, DType::F32)]);
    for (dtype, parameters) in types {
        for (width, dilation) in [(3, 1), (9, 1), (16, 1), (31, 1), (65, 1), (9, 3), (9, 100)] {
            // The past is there, and sequences are whole tiles: all taps are in range.
            let reach = (width - 1) * dilation;
            let sequences = Sequences::batch(2, 64 * dilation).unwrap().after(&[reach, reach]).unwrap();
            let window = Window::new(width, dilation, reach).unwrap();
            let problem = SpanKeyProblem::new(sequences.shape(), 64, 384, window, dtype)
                .and_then(|problem| problem.with_parameters(parameters)?.with_history(true))
                .unwrap();
            let profile = span_key(&few_multiprocessors(), problem, &sequences).profile;
            let (loads, stores) = (profile.shared_loads, profile.shared_stores);
            let share = stores.conflicts() as f64 / (loads.passes + stores.passes) as f64;
            println!("{dtype}, {parameters}, K = {width}, r = {dilation}: {share:.3}");
            assert_eq!(loads.conflicts(), 0, "{dtype}, {parameters}, K = {width}, r = {dilation}");
            assert!(share <= 0.03, "{dtype}, {parameters}, K = {width}, r = {dilation}: {share}");
        }
    }
}
