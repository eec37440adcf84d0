use std::sync::OnceLock;

use candle_core::{Device, Error, Result, Tensor, Var};
use lightspan::reference::Estimate;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};

use crate::support::{Numbers, Place, Values, to_f64};

/// A call of an operator: its inputs, in an order of its own, and what is expected of it.
///
/// The values that outputs and gradients are held to are those of candle's autograd in f64, over a composition of candle's own
/// operations; how far an operator may be off is what lightspan's reference says of each, from the types and the magnitudes
/// that are summed.
pub struct Call {
    pub inputs: Vec<Option<(&'static str, Values)>>,
    /// The gradient of the output.
    pub dy: Values,
    /// Bounds of the output, and of the gradients of the inputs.
    pub output: Vec<Estimate>,
    pub gradients: Vec<Vec<Estimate>>,
    /// Which inputs are variables.
    pub tracked: u32,
    /// What the places of the inputs are drawn from.
    pub seed: u64,
}

/// An input, and where it lies.
struct Placed {
    place: Place,
    around: Tensor,
    tensor: Tensor,
    var: bool,
}

type Operator<'a> = &'a dyn Fn(&[Option<Tensor>]) -> Result<Tensor>;

/// Fails unless outputs and gradients are within their bounds, and gradients there for variables and for nothing else.
pub fn check(call: &Call, ours: Operator<'_>, composed: Operator<'_>) -> TestCaseResult {
    run(call, ours, composed).map_err(|error| TestCaseError::fail(error.to_string()))?
}

/// Where the operators run: on the CPU, or on the first GPU where the environment variable `LIGHTSPAN_CANDLE_DEVICE` is `cuda`.
/// Compositions stay on the CPU. There is one for all tests: opening a GPU makes a stream and several handles.
pub fn device() -> Result<Device> {
    static DEVICE: OnceLock<std::result::Result<Device, String>> = OnceLock::new();
    let device = DEVICE.get_or_init(|| match std::env::var("LIGHTSPAN_CANDLE_DEVICE").as_deref() {
        Ok("cuda") => Device::new_cuda(0).map_err(|error| error.to_string()),
        Ok("cpu") | Err(_) => Ok(Device::Cpu),
        Ok(other) => Err(format!("LIGHTSPAN_CANDLE_DEVICE may be cpu or cuda, and is {other:?}")),
    });
    device.clone().map_err(Error::msg)
}

fn run(call: &Call, ours: Operator<'_>, composed: Operator<'_>) -> Result<TestCaseResult> {
    let (mut numbers, device) = (Numbers::new(call.seed ^ 5), device()?);
    let mut placed = vec![];
    for (i, input) in call.inputs.iter().enumerate() {
        let (place, var) = (numbers.place(), call.tracked >> i & 1 == 1);
        placed.push(match input {
            None => None,
            Some((_, values)) => {
                let around = place.around(&values.tensor()?.to_device(&device)?)?;
                let around = if var { Var::from_tensor(&around)?.into_inner() } else { around };
                let tensor = place.part(&around)?;
                Some(Placed { place, around, tensor, var })
            }
        });
    }
    let tensors: Vec<_> = placed.iter().map(|placed| placed.as_ref().map(|p| p.tensor.clone())).collect();
    let y = ours(&tensors)?;
    let found = (&y * call.dy.tensor()?.to_device(&device)?)?.sum_all()?.backward()?;

    let mut exact = vec![];
    for input in &call.inputs {
        exact.push(match input {
            None => None,
            Some((_, values)) => Some(Var::from_tensor(&values.exact()?)?.into_inner()),
        });
    }
    let expected_y = composed(&exact)?;
    let expected = (&expected_y * call.dy.exact()?)?.sum_all()?.backward()?;

    Ok((|| {
        let any = placed.iter().flatten().any(|placed| placed.var);
        prop_assert_eq!(y.track_op(), any);
        within("y", &call.output, &expected_y, &y)?;
        let inputs = call.inputs.iter().zip(&placed).zip(&exact).zip(&call.gradients);
        for (((input, placed), exact), bounds) in inputs {
            let (Some((name, _)), Some(placed), Some(exact)) = (input, placed, exact) else { continue };
            let Placed { place, around, tensor, var } = placed;
            if !var {
                prop_assert!(found.get(around).is_none(), "{} is no variable, and has a gradient", name);
                prop_assert!(found.get(tensor).is_none(), "{} is no variable, and has a gradient", name);
                continue;
            }
            let Some(gradient) = found.get(around) else {
                return Err(TestCaseError::fail(format!("{name} has no gradient")));
            };
            prop_assert_eq!(gradient.dtype(), around.dtype());
            let gradient = place.part(gradient).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let Some(expected) = expected.get(exact) else {
                return Err(TestCaseError::fail(format!("the composition has no gradient of {name}")));
            };
            within(name, bounds, expected, &gradient)?;
        }
        Ok(())
    })())
}

/// Fails unless every number is within the bound that the reference has for it.
fn within(name: &str, bounds: &[Estimate], expected: &Tensor, got: &Tensor) -> TestCaseResult {
    prop_assert_eq!(expected.dims(), got.dims(), "{}", name);
    let dtype = match got.dtype() {
        candle_core::DType::F16 => lightspan::DType::F16,
        candle_core::DType::BF16 => lightspan::DType::BF16,
        _ => lightspan::DType::F32,
    };
    let numbers = |tensor| to_f64(tensor).map_err(|error| TestCaseError::fail(error.to_string()));
    let (expected, got) = (numbers(expected)?, numbers(got)?);
    prop_assert_eq!(bounds.len(), got.len(), "{}", name);
    for (i, ((bound, &value), &got)) in bounds.iter().zip(&expected).zip(&got).enumerate() {
        let estimate = Estimate { value, bound: bound.bound };
        prop_assert!(
            estimate.admits(got, dtype),
            "{}[{}] is {:e}, not {:e}: the bound is {:e}, and it is off by {:e}",
            name,
            i,
            got,
            value,
            bound.bound,
            (got - value).abs()
        );
    }
    Ok(())
}
