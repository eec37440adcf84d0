//! The inputs of a case: the numbers of a fixture, in the types that a backend gets them in.

use std::fmt;

use lightspan::problem::Convolution;
use lightspan::{DType, Device, Sequences, Tensor, Window};

use super::Result;
use super::fixture::Fixture;

/// What a case is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Types {
    /// f64, as in the fixture.
    Exact,
    /// Storage types of a backend.
    Stored {
        /// Of the tokens.
        tokens: DType,
        /// Of weights, biases, generators and given logits.
        parameters: DType,
    },
}

impl Types {
    /// Tokens in each of `dtypes`, parameters in the same, or in f32.
    pub(crate) fn of(dtypes: &[DType], has_parameters: bool) -> Vec<Types> {
        let mut all = vec![];
        for &tokens in dtypes {
            all.push(Types::Stored { tokens, parameters: tokens });
            if has_parameters && tokens != DType::F32 {
                all.push(Types::Stored { tokens, parameters: DType::F32 });
            }
        }
        all
    }

    fn tokens(self) -> Option<DType> {
        match self {
            Types::Exact => None,
            Types::Stored { tokens, .. } => Some(tokens),
        }
    }

    fn parameters(self) -> Option<DType> {
        match self {
            Types::Exact => None,
            Types::Stored { parameters, .. } => Some(parameters),
        }
    }
}

impl fmt::Display for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Types::Exact => f.pad("f64"),
            Types::Stored { tokens, parameters } if tokens == parameters => f.pad(&tokens.to_string()),
            Types::Stored { tokens, parameters } => f.pad(&format!("{tokens}, parameters {parameters}")),
        }
    }
}

/// A tensor whose values are numbers of its type.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
    dtype: Option<DType>,
}

impl Array {
    /// Where nothing is rounded a problem still needs a type; the values that the reference computes do not depend on
    /// it, only their bounds.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype.unwrap_or(DType::F32)
    }

    /// Other numbers in the same shape and type.
    pub(crate) fn like(&self, values: impl Iterator<Item = f64>) -> Array {
        let round = |value| self.dtype.map_or(value, |dtype| dtype.round(value));
        Array { values: values.map(round).collect(), ..self.clone() }
    }

    /// The tensor on a device. Numbers of a storage type are numbers of f32, so nothing is rounded here.
    pub(crate) fn upload(&self, device: &Device) -> lightspan::Result<Tensor> {
        let values: Vec<f32> = self.values.iter().map(|&value| value as f32).collect();
        Tensor::from_f32(&values, &self.shape, self.dtype(), device)
    }
}

/// An optional tensor on a device.
pub(crate) fn upload_optional(array: Option<&Array>, device: &Device) -> lightspan::Result<Option<Tensor>> {
    array.map(|array| array.upload(device)).transpose()
}

/// The values of an optional tensor.
pub(crate) fn values(array: Option<&Array>) -> Option<&[f64]> {
    array.map(|array| array.values.as_slice())
}

/// A fixture, read in some types.
pub(crate) struct Inputs<'a> {
    pub(crate) fixture: &'a Fixture,
    pub(crate) types: Types,
}

impl Inputs<'_> {
    /// Whether the fixture has this tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fixture.tensors.contains_key(name)
    }

    /// The N sizes of a tensor.
    pub(crate) fn sizes<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let shape = &self.fixture.tensor(name)?.shape;
        shape[..].try_into().map_err(|_| format!("{name} must have {N} sizes, got {shape:?}").into())
    }

    /// A tensor that each token has a row of.
    pub(crate) fn tokens(&self, name: &str, shape: &[usize]) -> Result<Array> {
        self.array(name, shape, self.types.tokens())
    }

    /// A weight, bias, generator or given logits.
    pub(crate) fn parameter(&self, name: &str, shape: &[usize]) -> Result<Array> {
        self.array(name, shape, self.types.parameters())
    }

    /// The same where it may be missing.
    pub(crate) fn optional_parameter(&self, name: &str, shape: &[usize]) -> Result<Option<Array>> {
        if self.has(name) { self.parameter(name, shape).map(Some) } else { Ok(None) }
    }

    /// Sequences of `time` tokens or, where the fixture has lengths of this name, padded to that.
    pub(crate) fn sequences(&self, lengths: &str, batch: usize, time: usize) -> Result<Sequences> {
        Ok(match self.fixture.lengths(lengths, batch)? {
            Some(lengths) => Sequences::padded(time, &lengths)?,
            None => Sequences::batch(batch, time)?,
        })
    }

    /// The convolution that the metadata describes, of `channels`, without a bias.
    pub(crate) fn convolution(&self, sequences: &Sequences, channels: usize) -> Result<Convolution> {
        let fixture = self.fixture;
        let (width, dilation) = (fixture.value("kernel_width")?, fixture.value("dilation")?);
        let window = Window::new(width, dilation, fixture.value("padding_left")?)?;
        let dtype = self.types.tokens().unwrap_or(DType::F32);
        let parameters = self.types.parameters().unwrap_or(DType::F32);
        Ok(Convolution::new(sequences.shape(), channels, fixture.value("heads")?, window, dtype)?
            .with_normalize(fixture.normalize()?)
            .with_parameters(parameters)?)
    }

    fn array(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<Array> {
        let numbers = self.fixture.tensor(name)?;
        if numbers.shape != shape {
            return Err(format!("{name} must have shape {shape:?}, got {:?}", numbers.shape).into());
        }
        let round = |&value: &f64| dtype.map_or(value, |dtype| dtype.round(value));
        let values = numbers.values.iter().map(round).collect();
        Ok(Array { shape: shape.to_vec(), values, dtype })
    }
}
