//! Operators on a device of the test's own, with the limits that every WebGPU device has and no feature: nothing beyond
//! them is needed. What is needed less is a device with few workgroups in each dimension of a dispatch.

use lightspan::reference::Estimate;
use lightspan::wgpu::wgpu::Limits;
use lightspan::{Device, Tensor};
use proptest::prelude::*;

use crate::dynamic_conv::{self, generator};
use crate::support::gpu::{default_device, device_with};
use crate::support::{assert_admitted, config, conv_case, long_conv_case};
use crate::{attention, light_conv, linear, span_conv, span_key};

fn check(expected: &[Estimate], run: impl FnOnce(&Device) -> Tensor) -> Result<(), TestCaseError> {
    match default_device() {
        Some(device) => assert_admitted(expected, &run(&device)),
        None => Ok(()),
    }
}

proptest! {
    #![proptest_config(config(50))]

    #[test]
    fn light_conv(case in prop_oneof![conv_case(), long_conv_case()]) {
        let call = light_conv::Call::draw(&case);
        check(&call.expected(), |device| call.run(device))?;
    }

    #[test]
    fn dynamic_conv(case in prop_oneof![conv_case(), long_conv_case()], generator in generator()) {
        let call = dynamic_conv::Call::draw(&case, generator);
        check(&call.expected(), |device| call.run(device))?;
    }

    #[test]
    fn span_key(case in conv_case(), outputs in 1usize..40) {
        let call = span_key::Call::draw(&case, outputs, case.dtype);
        check(&call.expected(), |device| call.run(device))?;
    }

    #[test]
    fn span_conv(case in conv_case(), channels in 1usize..40) {
        let call = span_conv::Call::draw(&case, channels);
        check(&call.expected(), |device| call.run(device))?;
    }

    #[test]
    fn linear_layer(problem in linear::problem(), seed in any::<u64>()) {
        let call = linear::Call::draw(problem, seed);
        let expected: Vec<_> = (0..problem.rows()).flat_map(|row| call.expected(row)).collect();
        check(&expected, |device| call.run(device))?;
    }

    #[test]
    fn attention_of_both_kinds(case in attention::case(80)) {
        let call = attention::Call::draw(&case);
        for kind in attention::KINDS {
            check(&call.expected(), |device| call.run(kind, device))?;
        }
    }
}

/// A device may be asked for fewer workgroups than the defaults: then dispatches have a second and a third dimension.
#[test]
fn dispatches_fold_into_as_many_dimensions_as_it_takes() {
    let limits = Limits { max_compute_workgroups_per_dimension: 5, ..Limits::default() };
    let Some(device) = device_with(limits) else { return };
    let plan = |sequences, channels| {
        light_conv::Call::draw(&crate::support::ConvCase {
            sequences: lightspan::Sequences::batch(sequences, 3).unwrap(),
            heads: 1,
            head_channels: channels,
            window: lightspan::Window::causal(2).unwrap(),
            normalize: lightspan::Normalize::Softmax,
            dtype: lightspan::DType::F32,
            parameters: lightspan::DType::F32,
            bias: false,
            history: false,
            seed: sequences as u64,
        })
    };
    // A workgroup a sequence: one, two and three dimensions.
    for sequences in [1, 5, 6, 25, 26, 99, 124, 125] {
        let call = plan(sequences, 4);
        assert_admitted(&call.expected(), &call.run(&device)).unwrap();
    }
    let call = plan(126, 4);
    let (x, weight) = (call.x.on(&device), call.weight.on(&device));
    let options = lightspan::ops::ConvOptions { sequences: Some(&call.case.sequences), ..Default::default() };
    assert_eq!(
        lightspan::ops::light_conv(&x, &weight, call.case.window, &options).unwrap_err(),
        lightspan::Error::Limit { what: "workgroups of", of: "the call", needed: 126, limit: 125 },
    );
}
