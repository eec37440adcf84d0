//! Plain products by cuBLASLt: on a GPU with that library, or over the emulated driver and the library in its place. Without
//! one these tests are skipped, and say so; `LIGHTSPAN_REQUIRE=cublaslt` makes that an error.

use std::process::Command;

use lightspan::cuda::cudarc::driver::CudaSlice;
use lightspan::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use lightspan::cuda::{Gpu, Linear, LinearArgs, Products, Rows, RowsMut};
use lightspan::problem::{Activation, LinearProblem};
use lightspan::{DType, Device, bf16};
use proptest::prelude::*;

use crate::cuda::own_buffers::check_linear;
use crate::cuda::streams::{alone, stream};
use crate::linear::{self, Call};
use crate::support::cuda::{Scatter, cuda_device};
use crate::support::{assert_admitted, config};

/// A device whose plain products are those of cuBLASLt.
fn device() -> Option<Device> {
    let device = cuda_device()?;
    if let Err(error) = device.cuda_gpu()?.cublaslt() {
        eprintln!("SKIPPED: this test is of cuBLASLt: {error}");
        return None;
    }
    Some(device.with_products(Products::CublasLt))
}

/// Products that nothing but a bias and a residual are added to. Sums of many terms have parts.
fn plain() -> impl Strategy<Value = LinearProblem> {
    let sizes = sizes();
    (sizes, prop::sample::select(&DType::ALL[..]), any::<[bool; 2]>()).prop_map(
        |([rows, inputs, outputs], dtype, [bias, residual])| {
            LinearProblem::new(rows, inputs, outputs, dtype).unwrap().with_bias(bias).with_residual(residual)
        },
    )
}

/// Rows, inputs and outputs, some of them multiples of 8.
fn sizes() -> impl Strategy<Value = [usize; 3]> {
    let size = |least| prop_oneof![least..40, (1usize..12).prop_map(|eighths| 8 * eighths)];
    let inputs = prop_oneof![2usize..200, (1usize..40).prop_map(|eighths| 8 * eighths)];
    (size(1usize), inputs, size(2)).prop_map(|(rows, inputs, outputs)| [rows, inputs, outputs])
}

proptest! {
    #![proptest_config(config(300))]

    /// At any element, with gaps between rows: aligned as vectors want it, or not.
    #[test]
    fn products_equal_the_reference(
        problem in plain(), seed in any::<u64>(), place in any::<u64>(), step in prop::sample::select(&[1, 2, 4, 8][..]),
    ) {
        let Some(device) = device() else { return Ok(()) };
        let operator = Linear::new(device.cuda_gpu().unwrap(), problem).unwrap();
        prop_assert_eq!(operator.by(), Products::CublasLt);
        check_linear(&operator, &Call::draw(problem, seed), &mut Scatter::new(&device, place, step))?;
    }

    /// On tensors, the same bits each time.
    #[test]
    fn tensors_equal_the_reference(problem in plain(), seed in any::<u64>()) {
        let Some(device) = device() else { return Ok(()) };
        let call = Call::draw(problem, seed);
        let expected: Vec<_> = (0..problem.rows()).flat_map(|row| call.expected(row)).collect();
        let y = call.run(&device);
        assert_admitted(&expected, &y)?;
        let bits = |y: &lightspan::Tensor| y.to_f32().unwrap().iter().map(|y| y.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&y), bits(&call.run(&device)));
    }

    /// What cuBLASLt does not make as it has to be made, and what it is not to make.
    #[test]
    fn all_else_is_ours(problem in linear::problem(), seed in any::<u64>()) {
        let Some(device) = device() else { return Ok(()) };
        let gpu = device.cuda_gpu().unwrap();
        let plain = problem.activation() == Activation::Identity
            && problem.groups() == 1
            && problem.parameters() == problem.dtype()
            && problem.rows() > 0
            && problem.inputs().min(problem.outputs()) > 1;
        let by = Linear::new(gpu, problem).unwrap().by();
        prop_assert_eq!(by, if plain { Products::CublasLt } else { Products::Own });
        let gpu = gpu.clone().with_products(Products::Own);
        prop_assert_eq!(&gpu, device.cuda_gpu().unwrap());
        let operator = Linear::new(&gpu, problem).unwrap();
        prop_assert_eq!(operator.by(), Products::Own);
        let device = device.with_products(Products::Own);
        check_linear(&operator, &Call::draw(problem, seed), &mut Scatter::new(&device, seed, 1))?;
    }
}

fn problem() -> LinearProblem {
    LinearProblem::new(20, 96, 24, DType::BF16).unwrap().with_bias(true).with_residual(true)
}

/// The numbers of a call on a stream.
struct Memory([CudaSlice<bf16>; 5]);

impl Memory {
    fn new(call: &Call, gpu: &Gpu) -> Self {
        let Call { x, weight, bias, residual, .. } = call;
        let (bias, residual) = (bias.as_ref().unwrap(), residual.as_ref().unwrap());
        Memory([x, weight, bias, residual, residual].map(|values| {
            let numbers: Vec<_> = values.data.iter().map(|&x| bf16::from_f64(x)).collect();
            gpu.stream().unwrap().clone_htod(&numbers).unwrap()
        }))
    }

    fn launch(&mut self, operator: &Linear) {
        let [x, weight, bias, residual, y] = &mut self.0;
        let args = LinearArgs {
            x: Rows::contiguous(&*x),
            weight: (&*weight).into(),
            bias: Some((&*bias).into()),
            residual: Some(Rows::contiguous(&*residual)),
            y: RowsMut::contiguous(y),
        };
        operator.launch(args).unwrap();
    }

    fn check(&self, call: &Call, gpu: &Gpu) {
        let y = gpu.stream().unwrap().clone_dtoh(&self.0[4]).unwrap();
        gpu.synchronize().unwrap();
        let expected = (0..problem().rows()).flat_map(|row| call.expected(row));
        for (got, estimate) in y.iter().zip(expected) {
            assert!(estimate.admits(got.to_f64(), DType::BF16), "{got}, not {estimate:?}");
        }
    }
}

/// Each stream has a workspace of its own, and one handle does for all; a graph runs products as often as it is launched.
#[test]
fn streams_and_graphs() {
    let _alone = alone();
    let Some((device, first)) = device().and_then(|device| Some((device, stream()?.1))) else { return };
    // SAFETY: each stream has memory of its own, which outlives what uses it.
    unsafe { first.context().disable_event_tracking() };
    let second = first.context().new_stream().unwrap();
    for stream in [first.clone(), second] {
        let gpu = device.cuda_gpu().unwrap().on(stream.clone()).unwrap();
        assert_eq!(gpu.products(), Products::CublasLt);
        let operator = Linear::new(&gpu, problem()).unwrap();
        assert_eq!(operator.by(), Products::CublasLt);
        let call = Call::draw(problem(), 7);
        let mut memory = Memory::new(&call, &gpu);
        memory.launch(&operator);
        memory.check(&call, &gpu);

        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        memory.launch(&operator);
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        for seed in [8, 9] {
            // Other numbers in the same places.
            let call = Call::draw(problem(), seed);
            for (to, from) in memory.0.iter_mut().zip(Memory::new(&call, &gpu).0) {
                stream.memcpy_dtod(&from, to).unwrap();
            }
            graph.launch().unwrap();
            memory.check(&call, &gpu);
        }
    }
    // SAFETY: all memory that was made without it is on these streams, and this test is done with it.
    unsafe { first.context().enable_event_tracking() };
}

/// Prints whose a plain product is: what [`of_another_process`] runs.
#[test]
fn says_whose() {
    let Some(device) = cuda_device() else { return };
    let gpu = device.cuda_gpu().unwrap();
    let operator = Linear::new(gpu, problem()).unwrap();
    println!("products by {:?}, of {:?}", operator.by(), gpu.cublaslt());
    let there = gpu.cublaslt().is_ok() && gpu.products() == Products::CublasLt;
    assert_eq!(operator.by() == Products::CublasLt, there);
}

/// What [`says_whose`] prints in a process with these variables.
fn of_another_process(variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", "cuda::cublaslt::says_whose"]);
    command.env_remove("LIGHTSPAN_CUBLASLT").env_remove("LIGHTSPAN_REQUIRE").envs(variables.iter().copied());
    let output = command.output().unwrap();
    let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && printed.contains("products by "), "{printed}");
    printed
}

#[test]
fn the_environment_can_do_without() {
    let Some(device) = device() else { return };
    assert!(of_another_process(&[]).contains("products by CublasLt, of Ok("));
    let without = of_another_process(&[("LIGHTSPAN_CUBLASLT", "0")]);
    assert!(without.contains("products by Own, of Ok("), "{without}");
    if device.cuda_gpu().unwrap().name() != "no GPU: ptx-emulator" {
        return;
    }
    // One whose calls nobody knows yet, one that needs a newer driver, two that are too old.
    let versions = [("140000", "14.0.0"), ("130001", "13.0.1"), ("120008", "12.0.8"), ("110905", "11.9.5")];
    for (version, reason) in versions {
        let printed = of_another_process(&[("EMULATED_CUBLASLT_VERSION", version)]);
        assert!(printed.contains("products by Own") && printed.contains(reason), "{printed}");
    }
}
