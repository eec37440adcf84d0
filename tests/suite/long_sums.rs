//! Sums of very many equal terms, where roundings do not cancel: each output is within the bound of the reference.

use lightspan::problem::{Alignment, DynamicConvProblem, LightConvProblem, LinearProblem, Mask};
use lightspan::reference::{self, AttentionInputs, DynamicConvInputs, LightConvInputs, TapInputs};
use lightspan::{DType, Normalize, Sequences, Window};

use crate::dynamic_conv::Generator;
use crate::support::{ConvCase, assert_row_admitted, devices};
use crate::{attention, dynamic_conv, light_conv, linear};

/// No f32 is 0.1, so that every product and every sum is rounded.
const TERM: f64 = 0.1f32 as f64;

/// Wide windows over heads whose lanes are tokens, and heads whose lanes are channels.
const SIZES: [(usize, usize); 4] = [(512, 3), (512, 20), (4096, 3), (4096, 20)];

/// One head, a causal window, and a past that fills it from the first token on.
fn case(width: usize, head_channels: usize) -> ConvCase {
    ConvCase {
        sequences: Sequences::batch(1, 40).unwrap().after(&[width]).unwrap(),
        heads: 1,
        head_channels,
        window: Window::causal(width).unwrap(),
        normalize: Normalize::Softmax,
        dtype: DType::F32,
        parameters: DType::F32,
        bias: false,
        history: true,
        dropout: None,
        seed: 1,
    }
}

/// The first and the last token, and some in between.
const SAMPLED: [usize; 4] = [0, 1, 17, 39];

#[test]
fn light_conv() {
    for (width, head_channels) in SIZES {
        let mut call = light_conv::Call::draw(&case(width, head_channels));
        call.weight.data.fill(0.0);
        call.x.data.fill(TERM);
        call.history.iter_mut().for_each(|history| history.data.fill(TERM));
        let inputs = LightConvInputs {
            x: &call.x.data,
            weight: &call.weight.data,
            bias: None,
            history: call.history.as_ref().map(|history| &history.data[..]),
            seed: None,
        };
        let problem = LightConvProblem::new(call.case.convolution());
        for device in devices() {
            let y = call.run(&device);
            for t in SAMPLED {
                let expected = reference::light_conv(&problem, &call.case.sequences, inputs, (0, t));
                assert_row_admitted(&expected, &y, t);
            }
        }
    }
}

#[test]
fn dynamic_conv() {
    for (width, head_channels) in SIZES {
        let mut call = dynamic_conv::Call::draw(&case(width, head_channels), Generator::Given);
        call.weight.data.fill(0.0);
        call.x.data.fill(TERM);
        call.history.iter_mut().for_each(|history| history.data.fill(TERM));
        let inputs = DynamicConvInputs {
            x: &call.x.data,
            taps: TapInputs::Given(&call.weight.data),
            bias: None,
            history: call.history.as_ref().map(|history| &history.data[..]),
            seed: None,
        };
        let problem = DynamicConvProblem::given(call.case.convolution()).unwrap();
        for device in devices() {
            let y = call.run(&device);
            for t in SAMPLED {
                let expected = reference::dynamic_conv(&problem, &call.case.sequences, inputs, (0, t));
                assert_row_admitted(&expected, &y, t);
            }
        }
    }
}

/// Equal values, under scores that are all the same and under scores that are not.
#[test]
fn attention() {
    for scale in [0.0, 0.5] {
        let case = attention::Case {
            queries: Sequences::batch(1, 40).unwrap(),
            keys: Sequences::batch(1, 4096).unwrap(),
            heads: 1,
            head_channels: 4,
            scale: Some(scale),
            mask: Mask::FULL,
            alignment: Alignment::End,
            dtype: DType::F32,
            seed: 2,
        };
        let mut call = attention::Call::draw(&case);
        call.v.data.fill(TERM);
        let inputs = AttentionInputs { q: &call.q.data, k: &call.k.data, v: &call.v.data };
        let expected =
            SAMPLED.map(|t| reference::attention(&call.problem(), &case.queries, &case.keys, inputs, (0, t)));
        for device in devices() {
            for kind in attention::KINDS {
                let y = call.run(kind, &device);
                for (t, expected) in SAMPLED.iter().zip(&expected) {
                    assert_row_admitted(expected, &y, *t);
                }
            }
        }
    }
}

#[test]
fn linear() {
    let mut call = linear::Call::draw(LinearProblem::new(40, 4096, 33, DType::F32).unwrap(), 3);
    call.x.data.fill(TERM);
    call.weight.data.fill(TERM);
    for device in devices() {
        let y = call.run(&device);
        for row in SAMPLED {
            assert_row_admitted(&call.expected(row), &y, row);
        }
    }
}
