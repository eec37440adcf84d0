//! Every operator beside a copy of its tokens, what people write without it, and attention; and the layers and models that
//! are made of them (feature `models`), convolutions beside the Transformer.
//!
//! ```text
//! cargo bench                                      everything, which takes a while
//! cargo bench -- light_conv_by_width               one group
//! cargo bench -- 'by_length.*/1024$'               one length
//! cargo bench -- training_by_length                both passes of every operator
//! cargo bench --features models -- encoder         layers of encoders, and whole ones
//! cargo bench --features models -- decoding        a token after another
//! cargo bench -- --quick                           a rough answer
//! ```
//!
//! That is the CPU. `LIGHTSPAN_BENCH_DEVICE=wgpu cargo bench --features wgpu` measures a GPU, in groups of the same names
//! with `_wgpu` behind them; any other value is the name of an adapter of wgpu, and a software adapter is used only by its
//! name. `LIGHTSPAN_BENCH_DEVICE=cuda` with the feature `cuda` measures an NVIDIA GPU, at sizes that fill one as well. On GPUs
//! calls are prepared and bound before they are timed, and times are the device's own where it has a clock. Unfused is then
//! only dynamic_conv, by CUDA: its generating product into memory, and the convolution with logits from there; for the
//! others see `benches/pytorch.py`. Products are measured by cuBLASLt besides, where that library can be loaded; all else is then
//! measured with it too, unless `LIGHTSPAN_CUBLASLT=0`. Nothing is measured on the emulator, which is no model of time.
//!
//! Throughput is the bytes that the operator must move at least ([`lightspan::problem`]) over the time it took, for the
//! unfused compositions too: so within a group GB/s compare as speeds do, and against `copy` they say how far the
//! operator is from the speed of memory. At the end of a group a table says so for each line: medians, and the speed as a
//! share of that of the copy which moves most nearly as many bytes; and how many times as long attention and the unfused
//! composition take, where the group has them. `LIGHTSPAN_BENCH_JSON=FILE` adds the same to a file, a line of JSON each.

mod attention;
#[cfg(feature = "models")]
#[path = "../../examples/race/models/cost.rs"]
mod cost;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "models")]
mod decoding;
mod dynamic_conv;
#[cfg(feature = "models")]
mod encoders;
#[cfg(feature = "cuda")]
#[path = "../../examples/race/events.rs"]
mod events;
mod figures;
#[cfg(feature = "wgpu")]
mod gpu;
mod light_conv;
mod linear;
mod norm;
#[cfg(feature = "cuda")]
mod products;
mod span_conv;
#[cfg(feature = "wgpu")]
#[path = "../../examples/race/stopwatch.rs"]
mod stopwatch;
mod support;
mod tables;
mod training;
mod unfused;

use std::time::Duration;

use criterion::Criterion;
use lightspan::{Backend, DType, Device, Error};
use support::{Group, LENGTHS, Size};

fn main() -> lightspan::Result<()> {
    let device = device()?;
    eprintln!("operators on {device}");
    #[cfg(feature = "wgpu")]
    if device.gpu().is_some_and(stopwatch::is_software) {
        eprintln!("This adapter is software: its times say nothing of any GPU.");
    }
    // A baseline that computes something else is no baseline.
    unfused::check_against_operators()?;
    norm::check_against_operator()?;
    linear::check_against_operator()?;
    figures::check();

    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    by_length(&mut criterion, &device, "by_length", LENGTHS.map(Size::of), DType::F32)?;
    if device.backend() == Backend::Cuda {
        // What the sizes above leave of such a GPU idle would be most of it.
        by_length(&mut criterion, &device, "by_length_large", LENGTHS.map(Size::large), DType::BF16)?;
        dynamic_conv::large(&mut criterion, &device)?;
        linear::forms_large(&mut criterion, &device)?;
        #[cfg(feature = "cuda")]
        products::products(&mut criterion, &device)?;
    }
    light_conv::by_width(&mut criterion, &device)?;
    light_conv::large(&mut criterion, &device)?;
    dynamic_conv::by_width(&mut criterion, &device)?;
    linear::by_rows(&mut criterion, &device)?;
    linear::forms(&mut criterion, &device)?;
    norm::by_rows(&mut criterion, &device)?;
    norm::large(&mut criterion, &device)?;
    tables::embedding_by_length(&mut criterion, &device)?;
    tables::embedding_large(&mut criterion, &device)?;
    tables::top_k_by_rows(&mut criterion, &device)?;
    tables::append_by_length(&mut criterion, &device)?;
    layers(&mut criterion, &device)?;
    training::light_conv_by_width(&mut criterion, &device)?;
    training::by_length(&mut criterion, &device)?;
    criterion.final_summary();
    Ok(())
}

/// What `LIGHTSPAN_BENCH_DEVICE` says: a backend, or the name of an adapter of wgpu; the CPU by default.
fn device() -> lightspan::Result<Device> {
    match std::env::var("LIGHTSPAN_BENCH_DEVICE").unwrap_or_default().as_str() {
        "" => Ok(Device::cpu()),
        "cuda-emulated" => Err(Error::Unavailable {
            backend: "cuda-emulated",
            reason: "nothing is measured there: the emulator is no model of time".to_owned(),
        }),
        name => name.parse::<Backend>().map_or_else(|_| named(name), Device::open),
    }
}

#[cfg(feature = "wgpu")]
fn named(adapter: &str) -> lightspan::Result<Device> {
    Device::wgpu_named(adapter)
}

/// The error that says why there is none.
#[cfg(not(feature = "wgpu"))]
fn named(_: &str) -> lightspan::Result<Device> {
    Device::open(Backend::Wgpu)
}

/// Layers, whole encoders, and decoding.
#[cfg(feature = "models")]
fn layers(criterion: &mut Criterion, device: &Device) -> lightspan::Result<()> {
    encoders::layer_by_length(
        criterion,
        device,
        "encoder_layer_by_length",
        LENGTHS.map(Size::of),
        DType::F32,
    )?;
    encoders::by_length(criterion, device, "encoder_by_length", encoders::SMALL)?;
    decoding::by_length(criterion, device, "decoding_by_length", decoding::SMALL)?;
    if device.backend() == Backend::Cuda {
        let (name, sizes) = ("encoder_layer_by_length_large", LENGTHS.map(Size::large));
        encoders::layer_by_length(criterion, device, name, sizes, DType::BF16)?;
        encoders::by_length(criterion, device, "encoder_by_length_large", encoders::BASE)?;
        decoding::by_length(criterion, device, "decoding_by_length_large", decoding::BASE)?;
    }
    Ok(())
}

/// Says that they are left out.
#[cfg(not(feature = "models"))]
fn layers(_: &mut Criterion, _: &Device) -> lightspan::Result<()> {
    eprintln!("left out: layers, encoders and decoding, which need the feature models");
    Ok(())
}

/// Convolutions, what people write without them, and attention, with the same number of tokens in longer and longer
/// sequences.
fn by_length(
    criterion: &mut Criterion,
    device: &Device,
    name: &str,
    sizes: [Size; 7],
    dtype: DType,
) -> lightspan::Result<()> {
    let mut group = Group::new(criterion, name, device);
    for size in sizes {
        support::measure_copy(&mut group, size.time, size.bytes(dtype));
        light_conv::by_length(&mut group, size, dtype)?;
        dynamic_conv::by_length(&mut group, size, dtype)?;
        span_conv::by_length(&mut group, size, dtype)?;
        attention::by_length(&mut group, size, dtype)?;
    }
    group.finish();
    Ok(())
}
