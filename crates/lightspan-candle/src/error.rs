//! lightspan's errors inside candle's.

use std::fmt;

use candle_core::Error;

/// The error of lightspan that an error of candle carries: what was wrong with the call, with every number needed to mend it.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lightspan_candle::{Window, light_conv, lightspan_error};
///
/// let x = Tensor::zeros((1, 10, 6), DType::F32, &Device::Cpu)?;
/// let weight = Tensor::zeros((4, 7), DType::F32, &Device::Cpu)?;
/// let error = light_conv(&x, &weight, Window::same(7)?, &Default::default()).unwrap_err();
/// assert_eq!(lightspan_error(&error), Some(&lightspan::Error::Heads { heads: 4, channels: 6 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn lightspan_error(error: &Error) -> Option<&lightspan::Error> {
    match error {
        Error::WrappedContext { wrapped, .. } => wrapped.downcast_ref::<Carried>().map(|carried| &carried.0),
        Error::Context { inner, .. } | Error::WithPath { inner, .. } | Error::WithBacktrace { inner, .. } => {
            lightspan_error(inner)
        }
        _ => None,
    }
}

/// An error on its way through candle, which prints what it carries by `Debug`: that is the message here.
struct Carried(lightspan::Error);

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Carried {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// An error of lightspan in a call of `operator`, as one of candle.
pub(crate) fn carry(operator: &'static str) -> impl Fn(lightspan::Error) -> Error {
    move |error| {
        let (wrapped, context) = (Box::new(Carried(error)), operator.to_owned());
        Error::WrappedContext { wrapped, context }.bt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_under_what_candle_wraps_around_it() {
        let heads = lightspan::Error::Heads { heads: 4, channels: 6 };
        let error = carry("light_conv")(heads.clone());
        assert_eq!(error.to_string().lines().next(), Some("4 heads do not divide 6 channels"));
        assert!(error.to_string().contains("light_conv"), "{error}");
        let error = error.context("in layer 3").with_path("model.safetensors");
        assert_eq!(lightspan_error(&error), Some(&heads));
        assert_eq!(lightspan_error(&Error::msg("something else")), None);
    }
}
