//! lightspan inside candle.

mod check;
mod dynamic_conv;
mod error;
mod light_conv;
mod operation;
mod room;
mod rows;
mod span_conv;
mod span_key;

pub use dynamic_conv::{DynamicConvOptions, dynamic_conv, dynamic_conv_given};
pub use error::lightspan_error;
pub use light_conv::{ConvOptions, light_conv};
pub use lightspan::{self, Dropout, DropoutRate, Normalize, Sequences, Window};
pub use span_conv::{SpanConvOptions, SpanConvTensors, span_conv};
pub use span_key::{SpanKeyOptions, SpanKeyTensors, span_key};
