//! One fixture against one backend: what the runner and the tests share.
//!
//! Backends are held to the reference, on inputs rounded to the type they store; the reference is held to the fixture
//! in f64, before any backend is: a fixture that the reference does not reproduce says nothing about a backend.

mod agreement;
mod attention;
mod dynamic_conv;
mod fixture;
mod inputs;
mod light_conv;
#[cfg(feature = "models")]
mod model;
mod span_conv;

use std::error::Error;
use std::fmt;

use lightspan::ops::AttentionKind;
use lightspan::reference::Estimate;
use lightspan::{DType, Device, Tensor};

pub(crate) use agreement::Agreement;
pub(crate) use fixture::Fixture;
pub(crate) use inputs::Types;
use inputs::{Array, Inputs};
#[cfg(feature = "models")]
pub(crate) use model::check_model;

/// What is wrong with a fixture, or with a call made from one.
pub(crate) type Fault = Box<dyn Error>;

pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;

/// Where a case is computed.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// The formula in f64.
    Reference,
    /// A backend.
    Device(Device),
}

/// What became of one case in one type.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The fixture, and which form of the operator where there are several.
    pub(crate) case: String,
    /// What it was computed in.
    pub(crate) types: Types,
    /// How far off the outputs were, or why there are none.
    pub(crate) result: Result<Agreement>,
}

/// What an outcome counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    /// Nothing was computed, as the device has no kernels for the operator in this version.
    Skipped,
}

impl Outcome {
    pub(crate) fn verdict(&self) -> Verdict {
        match &self.result {
            Ok(agreement) if agreement.holds() => Verdict::Passed,
            Err(fault) if is_unavailable(&**fault) => Verdict::Skipped,
            _ => Verdict::Failed,
        }
    }
}

/// Whether an operator said so, and not what is around it: those errors are of other types.
fn is_unavailable(fault: &(dyn Error + 'static)) -> bool {
    matches!(fault.downcast_ref(), Some(lightspan::Error::Unavailable { .. }))
}

/// One operator with the inputs of one fixture.
///
/// `read` of the operators checks every shape: the reference takes slices and trusts their lengths.
trait Operator {
    /// Sizes of y.
    fn shape(&self) -> &[usize];

    /// y as the reference has it.
    fn reference(&self) -> Vec<Estimate>;

    /// y as the device has it.
    fn run(&self, device: &Device) -> lightspan::Result<Tensor>;

    /// The gradients of all inputs from that of y, as the reference has them.
    fn gradients(&self, dy: &Array) -> Vec<Gradient>;

    /// The same, in that order, as the device has them.
    fn run_backward(&self, device: &Device, dy: &Array) -> lightspan::Result<Vec<Tensor>>;
}

/// The gradient of one input.
struct Gradient {
    /// As the fixture calls it.
    name: &'static str,
    shape: Vec<usize>,
    estimates: Vec<Estimate>,
}

impl Gradient {
    /// That of an input of the shape of `like`.
    fn of(name: &'static str, like: &Array, estimates: Vec<Estimate>) -> Self {
        Gradient { name, shape: like.shape.clone(), estimates }
    }
}

/// The operators that fixtures may hold, by the name they have there; attention comes in two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    LightConv,
    DynamicConv,
    SpanConv,
    Attention(AttentionKind),
}

impl Op {
    fn forms(fixture: &Fixture) -> Result<Vec<Op>> {
        Ok(match fixture.text("op")? {
            "light_conv" => vec![Op::LightConv],
            "dynamic_conv" => vec![Op::DynamicConv],
            "span_conv" => vec![Op::SpanConv],
            "attention" => vec![Op::Attention(AttentionKind::Naive), Op::Attention(AttentionKind::Fused)],
            op => return Err(format!("op {op:?} is not known").into()),
        })
    }

    fn read(self, inputs: &Inputs<'_>) -> Result<Box<dyn Operator>> {
        Ok(match self {
            Op::LightConv => Box::new(light_conv::LightConv::read(inputs)?),
            Op::DynamicConv => Box::new(dynamic_conv::DynamicConv::read(inputs)?),
            Op::SpanConv => Box::new(span_conv::SpanConv::read(inputs)?),
            Op::Attention(kind) => Box::new(attention::Attention::read(inputs, kind)?),
        })
    }

    /// Whether it has weights, which may be in another type than the tokens.
    fn has_parameters(self) -> bool {
        !matches!(self, Op::Attention(_))
    }

    fn case(self, fixture: &Fixture) -> String {
        match self {
            Op::Attention(AttentionKind::Naive) => format!("{} naive", fixture.name),
            Op::Attention(AttentionKind::Fused) => format!("{} fused", fixture.name),
            _ => fixture.name.clone(),
        }
    }
}

/// Every case of a fixture in one place: the reference in f64, a device in each of `dtypes`, those of 16 bits once more
/// with parameters in f32. With `gradients`, each is followed by its backward pass.
pub(crate) fn check(fixture: &Fixture, place: &Place, dtypes: &[DType], gradients: bool) -> Vec<Outcome> {
    let outcome = |case: String, types, result| Outcome { case, types, result };
    let forms = match Op::forms(fixture) {
        Ok(forms) => forms,
        Err(fault) => return vec![outcome(fixture.name.clone(), Types::Exact, Err(fault))],
    };
    let mut outcomes = vec![];
    let mut add = |case: String, types, result, backward: &dyn Fn() -> Result<Agreement>| {
        if gradients {
            let gradients = backward();
            outcomes.push(outcome(case.clone(), types, result));
            outcomes.push(outcome(format!("{case} gradients"), types, gradients));
        } else {
            outcomes.push(outcome(case, types, result));
        }
    };
    match place {
        // Every form of an operator has the same formula.
        Place::Reference => {
            let (op, name) = (forms[0], fixture.name.clone());
            let backward = || backward_reference(fixture, op);
            add(name, Types::Exact, forward_reference(fixture, op), &backward);
        }
        Place::Device(device) => {
            for op in forms {
                for types in Types::of(dtypes, op.has_parameters()) {
                    let backward = || backward(fixture, op, types, device);
                    add(op.case(fixture), types, forward(fixture, op, types, device), &backward);
                }
            }
        }
    }
    outcomes
}

/// The reference against the fixture.
fn forward_reference(fixture: &Fixture, op: Op) -> Result<Agreement> {
    let inputs = Inputs { fixture, types: Types::Exact };
    let operator = op.read(&inputs)?;
    let y = inputs.tokens("y", operator.shape())?;
    let got: Vec<f64> = operator.reference().iter().map(|y| y.value).collect();
    let expected: Vec<Estimate> = y.values.iter().map(|&value| agreement::in_f64(value)).collect();
    // An estimate past the largest number of its type admits infinity; f32 is the widest there is.
    Agreement::of(&expected, &got, DType::F32, operator.shape())
}

/// A device against the reference.
fn forward(fixture: &Fixture, op: Op, types: Types, device: &Device) -> Result<Agreement> {
    let reference = forward_reference(fixture, op)?;
    if !reference.holds() {
        return Err(format!("the reference does not reproduce y: {reference}").into());
    }
    let operator = op.read(&Inputs { fixture, types })?;
    let y = operator.run(device)?;
    if y.shape() != operator.shape() {
        return Err(format!("y has shape {:?}, expected {:?}", y.shape(), operator.shape()).into());
    }
    let got: Vec<f64> = y.to_f32()?.into_iter().map(f64::from).collect();
    Agreement::of(&operator.reference(), &got, y.dtype(), operator.shape())
}

/// The reference's gradients against those of the fixture.
fn backward_reference(fixture: &Fixture, op: Op) -> Result<Agreement> {
    let inputs = Inputs { fixture, types: Types::Exact };
    let operator = op.read(&inputs)?;
    let gradients = operator.gradients(&inputs.tokens("dy", operator.shape())?);
    let agreements = gradients.iter().map(|gradient| {
        let found: Vec<f64> = gradient.estimates.iter().map(|estimate| estimate.value).collect();
        let expected = inputs.parameter(gradient.name, &gradient.shape)?;
        let expected: Vec<_> = expected.values.iter().map(|&value| agreement::in_f64(value)).collect();
        Ok(Agreement::of(&expected, &found, DType::F32, &gradient.shape)?.named(gradient.name))
    });
    Agreement::worst(agreements.collect::<Result<_>>()?)
}

/// A device's gradients against the reference's.
fn backward(fixture: &Fixture, op: Op, types: Types, device: &Device) -> Result<Agreement> {
    let reference = backward_reference(fixture, op)?;
    if !reference.holds() {
        return Err(format!("the reference does not reproduce the gradients: {reference}").into());
    }
    let inputs = Inputs { fixture, types };
    let operator = op.read(&inputs)?;
    let dy = inputs.tokens("dy", operator.shape())?;
    let (expected, found) = (operator.gradients(&dy), operator.run_backward(device, &dy)?);
    if expected.len() != found.len() {
        return Err(format!("{} gradients, expected {}", found.len(), expected.len()).into());
    }
    let agreements = expected.iter().zip(&found).map(|(Gradient { name, shape, estimates }, found)| {
        if found.shape() != shape {
            return Err(format!("{name} has shape {:?}, expected {shape:?}", found.shape()).into());
        }
        let values: Vec<f64> = found.to_f32()?.into_iter().map(f64::from).collect();
        Ok(Agreement::of(estimates, &values, found.dtype(), shape)?.named(name))
    });
    Agreement::worst(agreements.collect::<Result<_>>()?)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Reference => f.pad("reference"),
            Place::Device(device) => f.pad(&device.backend().to_string()),
        }
    }
}
