//! The operators inside candle: their outputs and gradients against candle's own autograd over what people write without them.

mod support;

mod bad_input;
mod convbert;
mod dropout;
mod dynamic_conv;
mod fairseq;
mod layers;
mod light_conv;
mod locks;
mod nn;
mod padding;
mod shared;
mod span_conv;
mod span_key;
mod trained;
mod training;
