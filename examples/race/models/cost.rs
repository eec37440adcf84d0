//! What the operators of an encoder must do at least: their floors, one operator after another.

use lightspan::nn::{
    Conv, ConvBlock, Embeddings, Encoder, EncoderLayer, EncoderMixer, Linear, MixedAttention, Norm,
    NormOrder, SelfAttention,
};
use lightspan::problem::{
    Activation, AttentionProblem, Convolution, DynamicConvProblem, EmbeddingProblem, LightConvProblem,
    LinearProblem, NormProblem, NormResidual, SpanConvProblem,
};
use lightspan::{DType, Result, SequenceShape, Tensor, Window};

/// One operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) flops: u64,
    pub(crate) bytes: u64,
}

/// A call of layers: the sequences, and what tokens are stored in.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) sequences: SequenceShape,
    pub(crate) dtype: DType,
}

impl Call {
    pub(crate) fn embeddings(self, embeddings: &Embeddings) -> Result<Work> {
        let [vocabulary, channels] = sizes(&embeddings.table);
        let problem =
            EmbeddingProblem::of_sequences(self.sequences, vocabulary, channels, embeddings.table.dtype())?;
        let problem = match &embeddings.positions {
            Some(table) => problem.with_positions(sizes(table)[0], embeddings.first_position)?,
            None => problem,
        };
        let problem = match &embeddings.types {
            Some(table) => problem.with_types(sizes(table)[0])?,
            None => problem,
        };
        Ok(Work { flops: problem.flops(), bytes: problem.bytes() })
    }

    pub(crate) fn encoder(self, encoder: &Encoder) -> Result<Vec<Work>> {
        let mut all = Vec::new();
        for layer in &encoder.layers {
            all.extend(self.layer(layer)?);
        }
        if let Some(norm) = &encoder.norm {
            all.push(self.norm(norm, NormResidual::None)?);
        }
        Ok(all)
    }

    pub(crate) fn layer(self, layer: &EncoderLayer) -> Result<Vec<Work>> {
        // The residual comes with the norm, or with the last product before it.
        let (with_norm, with_product) = match layer.order {
            NormOrder::Post => (NormResidual::Before { sum: false }, false),
            NormOrder::Pre => (NormResidual::None, true),
            NormOrder::NormThenAdd => (NormResidual::After, false),
        };
        let mut all = match &layer.mixer {
            EncoderMixer::Conv(block) => self.conv_block(block, with_product)?,
            EncoderMixer::Attention(attention) => self.attention(attention, with_product)?,
            EncoderMixer::Mixed(mixed) => self.mixed(mixed, with_product)?,
        };
        all.push(self.norm(&layer.mixer_norm, with_norm)?);
        all.push(self.linear(&layer.feed_forward.input, false)?);
        all.push(self.linear(&layer.feed_forward.output, with_product)?);
        all.push(self.norm(&layer.feed_forward_norm, with_norm)?);
        Ok(all)
    }

    fn conv_block(self, block: &ConvBlock, residual: bool) -> Result<Vec<Work>> {
        let mut all =
            vec![self.linear(&block.input, false)?, self.conv(&block.conv, sizes(&block.output.weight)[1])?];
        if let Some(pointwise) = &block.pointwise {
            all.push(self.linear(pointwise, false)?);
        }
        all.push(self.linear(&block.output, residual)?);
        Ok(all)
    }

    fn conv(self, conv: &Conv, channels: usize) -> Result<Work> {
        Ok(match conv {
            Conv::Light(conv) => {
                let problem = self.convolution(channels, sizes(&conv.weight)[0], conv.window)?;
                let problem = problem.with_normalize(conv.normalize).with_bias(conv.bias.is_some());
                let problem = LightConvProblem::new(problem.with_parameters(conv.weight.dtype())?);
                Work { flops: problem.flops(), bytes: problem.bytes() }
            }
            Conv::Dynamic(conv) => {
                let problem = self.convolution(channels, conv.heads, conv.window)?;
                let problem = problem.with_normalize(conv.normalize).with_bias(conv.bias.is_some());
                let problem = DynamicConvProblem::generated(problem.with_parameters(conv.weight.dtype())?)?;
                let problem = problem.with_weight_bias(conv.weight_bias.is_some())?;
                Work { flops: problem.flops(), bytes: problem.bytes() }
            }
        })
    }

    fn convolution(self, channels: usize, heads: usize, window: Window) -> Result<Convolution> {
        Convolution::new(self.sequences, channels, heads, window, self.dtype)
    }

    fn attention(self, attention: &SelfAttention, residual: bool) -> Result<Vec<Work>> {
        let [_, channels] = sizes(&attention.output.weight);
        Ok(vec![
            self.linear(&attention.input, false)?,
            self.attended(attention.heads, channels)?,
            self.linear(&attention.output, residual)?,
        ])
    }

    fn attended(self, heads: usize, channels: usize) -> Result<Work> {
        let (queries, keys) = (self.sequences, self.sequences);
        let problem = AttentionProblem::new(queries, keys, heads, channels / heads, self.dtype)?;
        Ok(Work { flops: problem.flops(), bytes: problem.bytes() })
    }

    fn mixed(self, mixed: &MixedAttention, residual: bool) -> Result<Vec<Work>> {
        let [channels, _] = sizes(&mixed.depthwise);
        let [convolved, _] = sizes(&mixed.pointwise);
        let values = self.convolution(convolved, mixed.heads, mixed.window)?;
        let values = values.with_parameters(mixed.depthwise.dtype())?;
        let spans = SpanConvProblem::new(channels, values)?.with_key_bias(mixed.key_bias.is_some());
        let spans = spans.with_weight_bias(mixed.kernel_bias.is_some());
        Ok(vec![
            self.linear(&mixed.input, false)?,
            self.attended(mixed.heads, convolved)?,
            Work { flops: spans.flops(), bytes: spans.bytes() },
            self.linear(&mixed.attention_output, residual)?,
            self.linear(&mixed.conv_output, true)?,
        ])
    }

    pub(crate) fn norm(self, norm: &Norm, residual: NormResidual) -> Result<Work> {
        let channels = norm.weight.shape()[0];
        let problem = NormProblem::new(norm.kind, self.sequences.tokens(), channels, self.dtype)?;
        let problem = problem.with_residual(residual).with_bias(norm.bias.is_some());
        let problem = problem.with_parameters(norm.weight.dtype())?;
        Ok(Work { flops: problem.flops(), bytes: problem.bytes() })
    }

    pub(crate) fn linear(self, layer: &Linear, residual: bool) -> Result<Work> {
        let [rows, columns] = sizes(&layer.weight);
        let outputs = if layer.activation == Activation::Glu { rows / 2 } else { rows };
        let problem =
            LinearProblem::new(self.sequences.tokens(), columns * layer.groups, outputs, self.dtype)?;
        let problem = problem.with_groups(layer.groups)?.with_activation(layer.activation)?;
        let problem = problem.with_bias(layer.bias.is_some()).with_residual(residual);
        let problem = problem.with_parameters(layer.weight.dtype())?;
        Ok(Work { flops: problem.flops(), bytes: problem.bytes() })
    }
}

/// Of a matrix of parameters.
fn sizes(parameter: &Tensor) -> [usize; 2] {
    parameter.shape().try_into().unwrap_or_else(|_| unreachable!("a layer's weight is a matrix"))
}
