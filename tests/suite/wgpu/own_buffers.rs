//! Every drawn call on buffers of one's own is within the bounds of the reference: tensors at any element, rows with gaps
//! that hold NaN, outputs between bits that stay as they were. On a device with the adapter's limits and on one with the
//! defaults, where bindings begin at fewer places.

use lightspan::Device;
use lightspan::wgpu::{Append, AppendArgs, DeviceSequences, Gpu};
use proptest::prelude::*;

use crate::dynamic_conv::generator;
use crate::support::gpu::{Scatter, default_device, gpu_device, read};
use crate::support::{ConvCase, config, conv_case, long_conv_case};
use crate::wgpu::prepared::{self, Prepared, run};
use crate::{append, attention, embedding, linear, norm, top_k};

/// Where tensors lie, and on which device.
#[derive(Clone, Copy, Debug)]
struct Place {
    seed: u64,
    step: usize,
    default_limits: bool,
}

impl Place {
    fn device(self) -> Option<Device> {
        if self.default_limits { default_device() } else { gpu_device() }
    }
}

fn place() -> impl Strategy<Value = Place> {
    (any::<u64>(), 1usize..=2, any::<bool>()).prop_map(|(seed, step, default_limits)| Place {
        seed,
        step,
        default_limits,
    })
}

/// Mostly short sequences.
fn case() -> impl Strategy<Value = ConvCase> {
    prop_oneof![4 => conv_case(), 1 => long_conv_case()]
}

/// Runs one call and checks it.
fn check(
    place: Place,
    prepare: impl FnOnce(&Gpu, &mut Scatter<'_>) -> Prepared,
) -> Result<(), TestCaseError> {
    let Some(device) = place.device() else { return Ok(()) };
    let gpu = device.gpu().unwrap();
    let prepared = prepare(gpu, &mut Scatter::new(gpu, place.seed, place.step));
    run(gpu, [&prepared]);
    prepared.check()
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn light_conv(case in case(), place in place()) {
        check(place, |gpu, scatter| prepared::light_conv(gpu, &case, scatter))?;
    }

    #[test]
    fn dynamic_conv(case in case(), generator in generator(), place in place()) {
        check(place, |gpu, scatter| prepared::dynamic_conv(gpu, &case, generator, scatter))?;
    }

    #[test]
    fn span_key(case in case(), outputs in 1usize..20, wide in any::<bool>(), place in place()) {
        check(place, |gpu, scatter| prepared::span_key(gpu, &case, outputs, wide, scatter))?;
    }

    #[test]
    fn span_conv(case in case(), channels in 1usize..20, place in place()) {
        check(place, |gpu, scatter| prepared::span_conv(gpu, &case, channels, scatter))?;
    }

    #[test]
    fn linear_layer(problem in linear::problem(), seed in any::<u64>(), place in place()) {
        check(place, |gpu, scatter| prepared::linear(gpu, &linear::Call::draw(problem, seed), scatter))?;
    }

    #[test]
    fn norms(problem in norm::problem(), seed in any::<u64>(), place in place()) {
        let call = norm::Call::draw(problem, 1.0, seed);
        let Some(device) = (if place.default_limits { default_device() } else { gpu_device() }) else {
            return Ok(());
        };
        let gpu = device.gpu().unwrap();
        let [y, sum] = prepared::norm(gpu, &call, &mut Scatter::new(gpu, place.seed, place.step));
        run(gpu, [&y]);
        y.check()?;
        if problem.has_sum() {
            sum.check()?;
        }
    }

    #[test]
    fn attention_of_both_kinds(case in attention::case(80), place in place()) {
        for kind in attention::KINDS {
            check(place, |gpu, scatter| prepared::attention(gpu, &case, kind, scatter))?;
        }
    }

    /// A cache in a buffer that holds other things as well, to the bit.
    #[test]
    fn append(case in append::case(), place in place()) {
        let Some(device) = place.device() else { return Ok(()) };
        let gpu = device.gpu().unwrap();
        let mut scatter = Scatter::new(gpu, place.seed, place.step);
        let ([count, room, channels], dtype) = (case.problem.cache_shape(), case.problem.dtype());
        let x = scatter.bits(&case.x, channels, dtype);
        let cache = scatter.output(count * room, channels, dtype);
        let case = append::Case { cache: cache.bits_before(), ..case };
        let args = AppendArgs {
            sequences: &DeviceSequences::new(gpu, &case.sequences).unwrap(),
            x: x.rows(),
            cache: cache.rows(),
        };
        let call = Append::new(gpu, case.problem).unwrap().bind(args).unwrap();
        prop_assert_eq!(call.is_empty(), case.x.is_empty());
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        call.record(&mut encoder);
        gpu.queue().submit([encoder.finish()]);
        cache.check_bits(&case.expected())?;
    }

    #[test]
    fn history(case in case().prop_filter("causal", |case| case.window.is_causal()), place in place()) {
        check(place, |gpu, scatter| prepared::history(gpu, &case, scatter))?;
    }
}

proptest! {
    #![proptest_config(config(100))]

    /// Ids of padding are not looked at, and a token whose id is past its table is NaN.
    #[test]
    fn embeddings(call in embedding::call(), wrong in any::<bool>(), place in place()) {
        let call = if wrong { call.with_wrong_ids(place.seed) } else { call };
        check(place, |gpu, scatter| prepared::embedding(gpu, &call, scatter))?;
    }

    #[test]
    fn largest_numbers(problem in top_k::problem(), kind in top_k::kind(), place in place()) {
        let call = top_k::Call::draw(problem, kind, place.seed);
        let Some(device) = (if place.default_limits { default_device() } else { gpu_device() }) else {
            return Ok(());
        };
        let gpu = device.gpu().unwrap();
        let (values, (tokens, offset)) =
            prepared::top_k(gpu, &call, &mut Scatter::new(gpu, place.seed, place.step));
        run(gpu, [&values]);
        values.check()?;
        let all: Vec<u32> = bytemuck::pod_collect_to_vec(&read(gpu, &tokens));
        let indices: Vec<u32> = call.expected().iter().map(|ranked| ranked.index).collect();
        let around = |count| vec![u32::MAX - 1; count];
        prop_assert_eq!(all, [around(offset), indices, around(3)].concat());
    }
}

/// A device keeps the limits that it was made with: those of the tests here are the defaults indeed.
#[test]
fn the_default_device_has_the_default_limits() {
    let Some(device) = default_device() else { return };
    assert_eq!(*device.gpu().unwrap().limits(), lightspan::wgpu::Limits::default());
    assert_ne!(Some(&device), gpu_device().as_ref());
    assert_ne!(device, Device::cpu());
}
