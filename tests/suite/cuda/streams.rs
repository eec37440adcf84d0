//! What only a GPU can show: slices and views of cudarc's, streams of one's own, and graphs. On the emulator these are
//! skipped, and say so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lightspan::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use lightspan::cuda::cudarc::driver::{CudaSlice, CudaStream};
use lightspan::cuda::{
    DeviceSequences, Elements, Gpu, History, HistoryArgs, LightConv, LightConvArgs, Linear, LinearArgs, Rows,
    RowsMut,
};
use lightspan::problem::{Convolution, HistoryProblem, LightConvProblem, LinearProblem};
use lightspan::reference::Estimate;
use lightspan::{DType, Device, Error, Normalize, Sequences, Window, bf16};

use crate::light_conv::Call;
use crate::support::ConvCase;
use crate::support::cuda::cuda_device;

/// Whether cudarc tracks events is a matter of the whole context: these tests run one after another.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream of a GPU that is this test's own.
pub(super) fn stream() -> Option<(Device, Arc<CudaStream>)> {
    let device = cuda_device()?;
    let Some(stream) = device.cuda_gpu()?.stream() else {
        eprintln!("SKIPPED: this test is of a GPU, and there is none");
        return None;
    };
    let stream = stream.context().new_stream().unwrap();
    Some((device, stream))
}

fn call() -> Call {
    Call::draw(&ConvCase {
        sequences: Sequences::packed(&[0, 70, 70, 200]).unwrap(),
        heads: 3,
        head_channels: 20,
        window: Window::causal(9).unwrap(),
        normalize: Normalize::Softmax,
        dtype: DType::BF16,
        parameters: DType::F32,
        bias: false,
        history: false,
        dropout: None,
        seed: 5,
    })
}

/// Tokens behind 7 other numbers and 3 apart, weights as a view into something longer, and an output 4 apart.
struct Memory {
    x: CudaSlice<bf16>,
    weight: CudaSlice<f32>,
    y: CudaSlice<bf16>,
}

const CHANNELS: usize = 60;
const TOKENS: usize = 200;

impl Memory {
    fn new(call: &Call, stream: &Arc<CudaStream>) -> Self {
        let mut x = vec![bf16::NAN; 7 + TOKENS * (CHANNELS + 3)];
        for (t, row) in call.x.data.chunks(CHANNELS).enumerate() {
            for (to, &from) in x[7 + t * (CHANNELS + 3)..].iter_mut().zip(row) {
                *to = bf16::from_f64(from);
            }
        }
        let weight = [f32::NAN; 5].into_iter().chain(call.weight.data.iter().map(|&w| w as f32));
        Memory {
            x: stream.clone_htod(&x).unwrap(),
            weight: stream.clone_htod(&weight.collect::<Vec<_>>()).unwrap(),
            y: stream.clone_htod(&vec![bf16::from_f32(-1.0); TOKENS * (CHANNELS + 4)]).unwrap(),
        }
    }

    fn launch(&mut self, operator: &LightConv, list: &DeviceSequences) {
        let weight = self.weight.slice(5..);
        let mut y = self.y.slice_mut(..);
        let args = LightConvArgs {
            sequences: list,
            x: Rows::strided(Elements::from(&self.x).at(7), CHANNELS + 3),
            weight: (&weight).into(),
            bias: None,
            history: None,
            seed: None,
            y: RowsMut::strided(&mut y, CHANNELS + 4),
        };
        operator.launch(args).unwrap();
    }

    fn check(&self, stream: &Arc<CudaStream>, expected: &[Estimate]) {
        let y = stream.clone_dtoh(&self.y).unwrap();
        stream.synchronize().unwrap();
        for (row, expected) in y.chunks(CHANNELS + 4).zip(expected.chunks(CHANNELS)) {
            for (got, estimate) in row.iter().zip(expected) {
                assert!(estimate.admits(got.to_f64(), DType::BF16), "{got}, not {estimate:?}");
            }
            assert_eq!(row[CHANNELS..], [bf16::from_f32(-1.0); 4]);
        }
    }
}

#[test]
fn slices_and_views_on_a_stream_of_ones_own() {
    let _alone = alone();
    let Some((device, stream)) = stream() else { return };
    let call = call();
    let gpu = device.cuda_gpu().unwrap().on(stream.clone()).unwrap();
    let operator = LightConv::new(&gpu, LightConvProblem::new(call.case.convolution())).unwrap();
    let list = DeviceSequences::new(&gpu, &call.case.sequences).unwrap();
    // Written on another stream, which the call waits for.
    let other = stream.context().new_stream().unwrap();
    let mut memory = Memory::new(&call, &other);
    memory.launch(&operator, &list);
    memory.check(&stream, &call.expected());
}

/// candle's devices have it. A device of ours has tensors, which go from thread to thread.
#[test]
fn the_stream_of_a_thread_is_for_what_stays_in_it() {
    let _alone = alone();
    let Some((device, stream)) = stream() else { return };
    let own = stream.context().per_thread_stream();
    match Device::from_cuda(own.clone()) {
        Err(Error::Unavailable { backend: "cuda", reason }) => assert!(reason.contains("thread"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let call = call();
    let expected = call.expected();
    let first = device.cuda_gpu().unwrap();
    assert!(!first.is_per_thread());
    let run = || {
        let gpu = first.on(own.clone()).unwrap();
        assert!(gpu.is_per_thread());
        let operator = LightConv::new(&gpu, LightConvProblem::new(call.case.convolution())).unwrap();
        let list = DeviceSequences::new(&gpu, &call.case.sequences).unwrap();
        let mut memory = Memory::new(&call, &own);
        memory.launch(&operator, &list);
        memory.check(&own, &expected);
    };
    std::thread::scope(|scope| {
        scope.spawn(run);
        run();
    });
}

#[test]
fn a_graph_runs_what_was_captured() {
    let _alone = alone();
    let Some((_, stream)) = stream() else { return };
    // SAFETY: all that follows is used on one stream, and outlives what uses it.
    unsafe { stream.context().disable_event_tracking() };
    let call = call();
    let gpu = Gpu::new(stream.clone()).unwrap();
    let operator = LightConv::new(&gpu, LightConvProblem::new(call.case.convolution())).unwrap();
    let list = DeviceSequences::new(&gpu, &call.case.sequences).unwrap();
    let mut memory = Memory::new(&call, &stream);
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    memory.launch(&operator, &list);
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    memory.check(&stream, &call.expected());
    // SAFETY: all memory that was made without it is on this stream, and this test is done with it.
    unsafe { stream.context().enable_event_tracking() };
}

/// However its memory is aligned: all that a prepared operator may need is loaded, also where each alignment has a kernel of
/// its own.
#[test]
fn nothing_is_loaded_while_a_graph_is_captured() {
    let _alone = alone();
    let Some((_, stream)) = stream() else { return };
    // SAFETY: all that follows is used on one stream, and outlives what uses it.
    unsafe { stream.context().disable_event_tracking() };
    let gpu = Gpu::new(stream.clone()).unwrap();
    let sequences = Sequences::batch(2, 3).unwrap();
    let conv = Convolution::new(sequences.shape(), 8, 1, Window::causal(5).unwrap(), DType::BF16).unwrap();
    let history = History::new(&gpu, HistoryProblem::new(conv).unwrap()).unwrap();
    let linear = Linear::new(&gpu, LinearProblem::new(6, 8, 4, DType::BF16).unwrap()).unwrap();
    let list = DeviceSequences::new(&gpu, &sequences).unwrap();
    let numbers = |count: usize| (0..count).map(|i| bf16::from_f32(i as f32)).collect::<Vec<_>>();
    let (x, before) = (stream.clone_htod(&numbers(56)).unwrap(), stream.clone_htod(&numbers(72)).unwrap());
    for offset in [0, 1, 2, 4] {
        let mut next = stream.clone_htod(&numbers(72)).unwrap();
        let mut y = stream.clone_htod(&numbers(32)).unwrap();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let history_args = HistoryArgs {
            sequences: &list,
            x: Rows::contiguous(Elements::from(&x).at(offset)),
            history: Elements::from(&before).at(offset),
            next: (&mut next).into(),
        };
        history.launch(history_args).unwrap();
        let linear_args = LinearArgs {
            x: Rows::contiguous(Elements::from(&x).at(offset)),
            weight: (&before).into(),
            bias: None,
            residual: None,
            y: RowsMut::contiguous(&mut y),
        };
        linear.launch(linear_args).unwrap();
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        graph.launch().unwrap();
        let next = stream.clone_dtoh(&next).unwrap();
        stream.synchronize().unwrap();
        // The fourth row of the history, and the first token.
        assert_eq!(next[..8], numbers(72)[offset + 24..][..8]);
        assert_eq!(next[8..16], numbers(56)[offset..][..8]);
    }
    // SAFETY: all memory that was made without it is on this stream, and this test is done with it.
    unsafe { stream.context().enable_event_tracking() };
}
