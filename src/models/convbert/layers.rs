//! ConvBERT from parameters by the names that transformers gives them.

use crate::models::stack::NormShape;
use crate::models::{ConvBert, ConvBertConfig, Weights};
use crate::nn::{
    Embeddings, Encoder, EncoderLayer, EncoderMixer, FeedForward, Linear, MixedAttention, Norm, NormOrder,
};
use crate::problem::{Activation, NormKind};
use crate::{Result, Window};

/// The encoder's own weights of a model with a head; those of one without have no name before theirs.
pub(super) fn inside<'a>(weights: &Weights<'a>) -> Weights<'a> {
    let whole = weights.has("embeddings.word_embeddings.weight");
    if whole { weights.clone() } else { weights.at("convbert") }
}

pub(super) fn model(config: &ConvBertConfig, weights: &Weights<'_>) -> Result<ConvBert> {
    config.check()?;
    let (e, c) = (config.embedding_size, config.hidden_size);
    let tables = weights.at("embeddings");
    // Older versions kept the numbers 0, 1, 2 .. among the parameters.
    tables.pass_over("position_ids");
    let table = |name, rows| tables.at(name).get("weight", &[rows, e]);
    let embeddings = Embeddings {
        positions: Some(table("position_embeddings", config.max_position_embeddings)?),
        types: Some(table("token_type_embeddings", config.type_vocab_size)?),
        ..Embeddings::new(table("word_embeddings", config.vocab_size)?)
    };
    let project = || weights.at("embeddings_project").linear(e, c, true);
    let layers = (0..config.num_hidden_layers)
        .map(|i| layer(config, &weights.at("encoder.layer").at(i)))
        .collect::<Result<_>>()?;
    Ok(ConvBert {
        embeddings,
        embeddings_norm: norm(config, &tables, e)?,
        projection: (e != c).then(project).transpose()?,
        encoder: Encoder { layers, norm: None },
        mask_convolution: false,
    })
}

/// `LayerNorm`.
pub(super) fn norm(config: &ConvBertConfig, weights: &Weights<'_>, channels: usize) -> Result<Norm> {
    let shape = NormShape { kind: NormKind::Layer, bias: true, eps: config.layer_norm_eps };
    weights.at("LayerNorm").norm(shape, channels)
}

fn layer(config: &ConvBertConfig, weights: &Weights<'_>) -> Result<EncoderLayer> {
    let (c, ffn) = (config.hidden_size, config.intermediate_size);
    let input = grouped(&weights.at("intermediate.dense"), config.num_groups, c, ffn)?;
    Ok(EncoderLayer {
        mixer: EncoderMixer::Mixed(Box::new(mixed(config, &weights.at("attention"))?)),
        mixer_norm: norm(config, &weights.at("attention.output"), c)?,
        feed_forward: FeedForward {
            input: Linear { activation: config.activation()?, ..input },
            output: grouped(&weights.at("output.dense"), config.num_groups, ffn, c)?,
        },
        feed_forward_norm: norm(config, &weights.at("output"), c)?,
        order: NormOrder::Post,
    })
}

fn mixed(config: &ConvBertConfig, weights: &Weights<'_>) -> Result<MixedAttention> {
    let (c, a, k) = (config.hidden_size, config.head_channels(), config.conv_kernel_size);
    let (heads, inside) = (config.heads(), weights.at("self"));
    let (separable, kernel) = (inside.at("key_conv_attn_layer"), inside.at("conv_kernel_layer"));
    // The first columns of the output meet what attention found, the others what convolution found.
    let output = weights.at("output.dense");
    let columns = |first: usize| {
        let take = |values: Vec<f32>| {
            values.chunks_exact(2 * a).flat_map(|row| row[first..first + a].iter().copied()).collect()
        };
        output.get_with("weight", &[c, 2 * a], &[c, a], take)
    };
    Ok(MixedAttention {
        input: inside.side_by_side(&["query", "key", "value", "conv_out_layer"], c, a, true)?,
        depthwise: separable.get_as("depthwise.weight", &[c, 1, k], &[c, k])?,
        pointwise: separable.get_as("pointwise.weight", &[a, c, 1], &[a, c])?,
        key_bias: Some(separable.get_as("bias", &[a, 1], &[a])?),
        kernel: kernel.get("weight", &[heads * k, a])?,
        kernel_bias: Some(kernel.get("bias", &[heads * k])?),
        attention_output: Linear { bias: Some(output.get("bias", &[c])?), ..Linear::new(columns(0)?) },
        conv_output: Linear::new(columns(a)?),
        heads,
        window: Window::same(k)?,
    })
}

/// A linear layer in groups: where there are several, `weight` is `[groups, in / groups, out / groups]`, from inputs to outputs.
fn grouped(weights: &Weights<'_>, groups: usize, inputs: usize, outputs: usize) -> Result<Linear> {
    if groups == 1 {
        return weights.linear(inputs, outputs, true);
    }
    let (rows, columns) = (outputs / groups, inputs / groups);
    let transpose = |values: Vec<f32>| {
        let group = |group: &[f32]| -> Vec<f32> {
            (0..rows * columns).map(|i| group[i % columns * rows + i / columns]).collect()
        };
        values.chunks_exact(rows * columns).flat_map(group).collect()
    };
    Ok(Linear {
        weight: weights.get_with("weight", &[groups, columns, rows], &[outputs, columns], transpose)?,
        bias: Some(weights.get("bias", &[outputs])?),
        groups,
        activation: Activation::Identity,
    })
}
