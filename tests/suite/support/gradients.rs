use lightspan::reference::Estimate;
use lightspan::{DType, Device, Result, Tensor};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::support::{assert_admitted, devices, same_bits};

/// One gradient of a call, as the reference has it.
#[derive(Debug)]
pub struct Expected {
    pub name: &'static str,
    /// Whether the call asks for it: a gradient that is not wanted must not be there.
    pub wanted: bool,
    pub estimates: Vec<Estimate>,
    pub shape: Vec<usize>,
    pub dtype: DType,
}

/// Which gradients a call asks for: half of the calls for all of them; and whether those of parameters come in f32.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    bits: u16,
    wide: bool,
}

impl Selection {
    /// Every gradient, in the types of the inputs.
    pub const ALL: Self = Selection { bits: u16::MAX, wide: false };

    /// Whether the i-th gradient is asked for.
    pub fn has(self, i: usize) -> bool {
        self.bits >> i & 1 == 1
    }

    /// The type asked for the gradients of parameters.
    pub fn parameters(self) -> Option<DType> {
        self.wide.then_some(DType::F32)
    }
}

pub fn selection() -> impl Strategy<Value = Selection> {
    let bits = prop_oneof![Just(u16::MAX), any::<u16>()];
    (bits, any::<bool>()).prop_map(|(bits, wide)| Selection { bits, wide })
}

/// Fails unless every device gives the gradients that are wanted, and only those, each within its bound; and the same bits
/// when it is asked again.
pub fn check_gradients(
    expected: &[Expected],
    mut run: impl FnMut(&Device) -> Result<Vec<Option<Tensor>>>,
) -> Result<(), TestCaseError> {
    for device in devices() {
        let got = run(&device).unwrap();
        let again = run(&device).unwrap();
        assert_eq!(got.len(), expected.len());
        for ((expected, got), again) in expected.iter().zip(&got).zip(&again) {
            let name = expected.name;
            let Some(got) = got else {
                prop_assert!(!expected.wanted, "{name} is not there, on {device}");
                continue;
            };
            prop_assert!(expected.wanted, "{name} is there, on {device}, and was not asked for");
            prop_assert_eq!((got.shape(), got.dtype()), (&expected.shape[..], expected.dtype), "{}", name);
            prop_assert_eq!(got.device(), &device);
            assert_admitted(&expected.estimates, got)
                .map_err(|error| TestCaseError::fail(format!("{name} on {device}: {error}")))?;
            prop_assert!(
                same_bits(got, again.as_ref().unwrap()),
                "{name} differs from run to run, on {device}"
            );
        }
    }
    Ok(())
}
