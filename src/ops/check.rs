//! What every operator checks of its tensors.

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::ops::Channels;
#[cfg(feature = "wgpu")]
use crate::wgpu::Gpu;
use crate::{DType, Dims, Error, Result, Sequences, Tensor};

/// An error unless `tensor` is on the device of `call`, of type `dtype`, and of shape `shape`.
pub(crate) fn operand(
    name: &'static str,
    tensor: &Tensor,
    call: &Tensor,
    dtype: DType,
    shape: &[usize],
) -> Result<()> {
    channels(name, tensor.into(), call, dtype, shape)
}

/// The same for channels of a tensor.
pub(crate) fn channels(
    name: &'static str,
    tensor: Channels<'_>,
    call: &Tensor,
    dtype: DType,
    shape: &[usize],
) -> Result<()> {
    if tensor.device() != call.device() {
        let (expected, mut got) = (call.device().to_string(), tensor.device().to_string());
        if got == expected {
            got += ", opened another time";
        }
        return Err(Error::Device { tensor: name, expected, got });
    }
    if tensor.shape() != shape {
        let got = tensor.shape().as_slice().into();
        return Err(Error::Shape { tensor: name, expected: shape.into(), got });
    }
    if tensor.dtype() != dtype {
        return Err(Error::DType { tensor: name, expected: vec![dtype], got: tensor.dtype() });
    }
    Ok(())
}

/// The same for a tensor that need not be there.
pub(crate) fn optional(
    name: &'static str,
    tensor: Option<&Tensor>,
    call: &Tensor,
    dtype: DType,
    shape: &[usize],
) -> Result<()> {
    tensor.map_or(Ok(()), |tensor| operand(name, tensor, call, dtype, shape))
}

/// The two sizes of a matrix.
pub(crate) fn matrix(name: &'static str, tensor: &Tensor) -> Result<[usize; 2]> {
    tensor.shape().try_into().map_err(|_| Error::Shape {
        tensor: name,
        expected: [None, None].into(),
        got: tensor.shape().into(),
    })
}

/// The tokens of a convolution, as [`tokens`], with or without a history. Only sequences say how much of a history there
/// is, and sequences that continue have one.
pub(crate) fn convolved(
    name: &'static str,
    tensor: &Tensor,
    sequences: Option<&Sequences>,
    history: bool,
) -> Result<(usize, Sequences)> {
    match sequences {
        None if history => Err(Error::Missing { tensor: "sequences" }),
        Some(sequences) if sequences.continues() && !history => Err(Error::Missing { tensor: "history" }),
        sequences => tokens(name, tensor, sequences),
    }
}

/// The channels of tokens, and their sequences: those given, or each row of the batch `[batch, time, channels]`.
pub(crate) fn tokens<'a>(
    name: &'static str,
    tensor: impl Into<Channels<'a>>,
    sequences: Option<&Sequences>,
) -> Result<(usize, Sequences)> {
    let got = tensor.into().shape();
    let shape = |expected: Dims| Error::Shape { tensor: name, expected, got: got.as_slice().into() };
    match (sequences, got.as_slice()) {
        (None, &[batch, time, channels]) => Ok((channels, Sequences::batch(batch, time)?)),
        (None, _) => Err(shape([None, None, None].into())),
        (Some(sequences), sizes) => {
            let mut expected: Vec<_> = sequences.shape().tensor(0).into_iter().map(Some).collect();
            let channels = sizes.last().copied().unwrap_or(0);
            if sizes != sequences.shape().tensor(channels) {
                expected.pop();
                expected.push(None);
                return Err(shape(Dims(expected)));
            }
            Ok((channels, sequences.clone()))
        }
    }
}

/// An error where the device of `call` cannot do what is planned for it: found before anything is allocated.
#[cfg(feature = "wgpu")]
pub(crate) fn planned_wgpu<T>(call: &Tensor, plan: impl FnOnce(&Gpu) -> Result<T>) -> Result<()> {
    call.device().gpu().map_or(Ok(()), |gpu| plan(gpu).map(drop))
}

/// The same for a CUDA device.
#[cfg(feature = "cuda")]
pub(crate) fn planned_cuda<T>(call: &Tensor, plan: impl FnOnce(&cuda::Gpu) -> Result<T>) -> Result<()> {
    call.device().cuda_gpu().map_or(Ok(()), |gpu| plan(gpu).map(drop))
}

/// A tensor for a gradient that is wanted.
pub(crate) fn gradient(wanted: bool, shape: &[usize], dtype: DType, call: &Tensor) -> Result<Option<Tensor>> {
    wanted.then(|| Tensor::unwritten(shape, dtype, call.device())).transpose()
}
