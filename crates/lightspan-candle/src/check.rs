//! What every operator checks of its tensors, as `lightspan::ops` does.

use candle_core::{Device, Error as CandleError, Tensor};
use lightspan::{DType, Dims, Error, Result, Sequences};

/// A tensor of a call: its name in the operator's documentation, and its type in lightspan's terms.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) name: &'static str,
    pub(crate) tensor: &'a Tensor,
    pub(crate) dtype: DType,
}

impl<'a> Named<'a> {
    /// An error for a type that the operators do not know.
    pub(crate) fn new(
        operator: &'static str,
        name: &'static str,
        tensor: &'a Tensor,
    ) -> Result<Self, CandleError> {
        Ok(Named { name, tensor, dtype: supported(operator, name, tensor.dtype())? })
    }

    /// The same for a tensor that need not be there.
    pub(crate) fn optional(
        operator: &'static str,
        name: &'static str,
        tensor: Option<&'a Tensor>,
    ) -> Result<Option<Self>, CandleError> {
        tensor.map(|tensor| Named::new(operator, name, tensor)).transpose()
    }

    pub(crate) fn shape(&self) -> &'a [usize] {
        self.tensor.dims()
    }

    fn wrong_shape(&self, expected: Dims) -> Error {
        Error::Shape { tensor: self.name, expected, got: self.shape().into() }
    }

    /// An error unless it is on the device of `call`, of type `dtype`, and of shape `shape`.
    pub(crate) fn operand(&self, call: &Named<'_>, dtype: DType, shape: &[usize]) -> Result<()> {
        let (device, expected) = (self.tensor.device(), call.tensor.device());
        if !device.same_device(expected) {
            let (expected, mut got) = (place(expected), place(device));
            if got == expected {
                got += ", opened another time";
            }
            return Err(Error::Device { tensor: self.name, expected, got });
        }
        if self.shape() != shape {
            return Err(self.wrong_shape(shape.into()));
        }
        if self.dtype != dtype {
            return Err(Error::DType { tensor: self.name, expected: vec![dtype], got: self.dtype });
        }
        Ok(())
    }

    /// The two sizes of a matrix.
    pub(crate) fn matrix(&self) -> Result<[usize; 2]> {
        self.shape().try_into().map_err(|_| self.wrong_shape([None, None].into()))
    }

    /// An error unless it is of type `dtype` or f32.
    pub(crate) fn same_or_f32(&self, dtype: DType) -> Result<()> {
        if self.dtype == dtype || self.dtype == DType::F32 {
            return Ok(());
        }
        let mut expected = vec![dtype, DType::F32];
        expected.dedup();
        Err(Error::DType { tensor: self.name, expected, got: self.dtype })
    }

    /// The channels of the tokens of a convolution, and their sequences. Those that continue would have a history, for which
    /// there is no place here.
    pub(crate) fn convolved(&self, sequences: Option<&Sequences>) -> Result<(usize, Sequences)> {
        match sequences {
            Some(sequences) if sequences.as_slice().iter().any(|sequence| sequence.past > 0) => {
                Err(Error::Missing { tensor: "history" })
            }
            sequences => self.tokens(sequences),
        }
    }

    /// The channels of tokens, and their sequences: those given, or each row of the batch `[batch, time, channels]`.
    pub(crate) fn tokens(&self, sequences: Option<&Sequences>) -> Result<(usize, Sequences)> {
        match (sequences, self.shape()) {
            (None, &[batch, time, channels]) => Ok((channels, Sequences::batch(batch, time)?)),
            (None, _) => Err(self.wrong_shape([None, None, None].into())),
            (Some(sequences), sizes) => {
                let channels = sizes.last().copied().unwrap_or(0);
                if sizes != sequences.shape().tensor(channels) {
                    let mut expected: Vec<_> = sequences.shape().tensor(0).into_iter().map(Some).collect();
                    expected.pop();
                    expected.push(None);
                    return Err(self.wrong_shape(Dims(expected)));
                }
                Ok((channels, sequences.clone()))
            }
        }
    }
}

/// [`Named::operand`] for a tensor that need not be there.
pub(crate) fn optional(
    tensor: Option<Named<'_>>,
    call: &Named<'_>,
    dtype: DType,
    shape: &[usize],
) -> Result<()> {
    tensor.map_or(Ok(()), |tensor| tensor.operand(call, dtype, shape))
}

/// A type of candle's as one of lightspan's, or an error for one that the operators do not know.
pub(crate) fn supported(
    operator: &'static str,
    name: &'static str,
    dtype: candle_core::DType,
) -> Result<DType, CandleError> {
    match dtype {
        candle_core::DType::F32 => Ok(DType::F32),
        candle_core::DType::F16 => Ok(DType::F16),
        candle_core::DType::BF16 => Ok(DType::BF16),
        other => Err(CandleError::UnsupportedDTypeForOp(other, operator)
            .bt()
            .context(format!("{name} must be f32, f16 or bf16"))),
    }
}

/// An error for a device that the operators do not run on.
pub(crate) fn device(device: &Device) -> Result<()> {
    match device {
        Device::Cpu => Ok(()),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => Ok(()),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => Err(Error::Unavailable {
            backend: "cuda",
            reason: "this build of lightspan-candle is without the feature \"cuda\"".to_owned(),
        }),
        Device::Metal(_) => Err(Error::Unavailable {
            backend: "metal",
            reason: "inside candle the operators run on the CPU and on CUDA devices".to_owned(),
        }),
    }
}

fn place(device: &Device) -> String {
    format!("{:?}", device.location())
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;

    #[test]
    fn devices_without_a_room_are_refused_by_name() {
        assert_eq!(device(&Device::Cpu), Ok(()));
        let refused = |result: Result<()>| match result {
            Err(Error::Unavailable { backend, reason }) => (backend, reason),
            other => panic!("{other:?}"),
        };
        // What stands for a device in a build without it.
        let (backend, reason) = refused(device(&Device::Metal(candle_core::MetalDevice)));
        assert_eq!(backend, "metal");
        assert!(reason.contains("CUDA"), "{reason}");
        let (backend, reason) = refused(device(&Device::Cuda(candle_core::CudaDevice)));
        assert_eq!(backend, "cuda");
        assert!(reason.contains("feature \"cuda\""), "{reason}");
    }
}
