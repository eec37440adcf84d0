//! Operators on a device of the test's own, with the limits that every WebGPU device has and no feature: nothing beyond
//! them is needed.

use lightspan::reference::Estimate;
use lightspan::{Device, Tensor};
use proptest::prelude::*;

use crate::dynamic_conv::{self, generator};
use crate::support::gpu::default_device;
use crate::support::{assert_admitted, config, conv_case, long_conv_case};
use crate::{attention, embedding, light_conv, linear, norm, span_conv, span_key, top_k};

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
    fn norms(problem in norm::problem(), seed in any::<u64>()) {
        let call = norm::Call::draw(problem, 1.0, seed);
        check(&call.expected().0, |device| call.run(device).0)?;
    }

    #[test]
    fn embeddings(call in embedding::call()) {
        check(&call.expected(), |device| call.run(device))?;
    }

    #[test]
    fn largest_numbers(problem in top_k::problem(), kind in top_k::kind(), seed in any::<u64>()) {
        let call = top_k::Call::draw(problem, kind, seed);
        let values: Vec<_> = call.expected().iter().map(|ranked| ranked.value).collect();
        check(&values, |device| call.run(device).0)?;
    }

    #[test]
    fn attention_of_both_kinds(case in attention::case(80)) {
        let call = attention::Call::draw(&case);
        for kind in attention::KINDS {
            check(&call.expected(), |device| call.run(kind, device))?;
        }
    }
}
