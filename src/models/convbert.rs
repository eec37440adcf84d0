mod config;
mod heads;
mod layers;

use std::path::Path;

pub use config::ConvBertConfig;
pub use heads::{ConvBertDiscriminator, ConvBertForMaskedLm, ConvBertForSequenceClassification};

use crate::models::{LoadOptions, Weights, config as json};
use crate::nn::{Embeddings, Encoder, Linear, Norm};
use crate::ops::Residual;
use crate::{Device, Layout, Result, Sequences, Tensor, Tokens};

/// The encoder of ConvBERT (Jiang et al. 2020): in each layer heads of attention beside heads of span-based dynamic convolution.
///
/// Tokens are `[batch, time]` or packed `[tokens]`. Padding comes after the tokens of a sequence.
#[derive(Clone, Debug)]
pub struct ConvBert {
    /// Of tokens, where they stand, and which of two sentences they are of.
    pub embeddings: Embeddings,
    /// Of what the embeddings give.
    pub embeddings_norm: Norm,
    /// From the channels of embeddings to those of layers, where they are others.
    pub projection: Option<Linear>,
    /// The layers.
    pub encoder: Encoder,
    /// Whether convolutions see no padding. The published models let them see (K - 1) / 2 tokens of it, which their outputs near the
    /// end of a padded sequence depend on; so it is off.
    pub mask_convolution: bool,
}

impl ConvBert {
    /// The model of these weights.
    ///
    /// # Errors
    ///
    /// [`Error::Config`](crate::Error::Config) for configurations that are not supported, and as [`Weights::get`].
    pub fn new(config: &ConvBertConfig, weights: &Weights<'_>) -> Result<Self> {
        layers::model(config, weights)
    }

    /// The model in a folder with `config.json` and `model.safetensors`, whatever head it has.
    ///
    /// # Errors
    ///
    /// As [`ConvBert::new`], and for files that cannot be read.
    pub fn load(
        folder: impl AsRef<Path>,
        device: &Device,
        options: LoadOptions<'_>,
    ) -> Result<(ConvBertConfig, Self)> {
        json::load(folder.as_ref(), device, options, |config, weights| {
            let inside = layers::inside(weights);
            let model = ConvBert::new(config, &inside)?;
            inside.finish()?;
            Ok(model)
        })
    }

    /// What the last layer gives, `[.., C]`. Tokens without types are all of type 0.
    ///
    /// # Errors
    ///
    /// For tokens past the vocabulary, the positions or the types, and as the operators of the layers.
    pub fn forward(&self, tokens: &Tokens, types: Option<&Tokens>, sequences: &Sequences) -> Result<Tensor> {
        let seen = self.seen(sequences)?;
        let x = self.embed(tokens, types, &seen)?;
        self.encoder.forward(x, &seen, sequences)
    }

    /// What the embeddings and each layer give, `[.., C]` each.
    ///
    /// # Errors
    ///
    /// As [`ConvBert::forward`].
    pub fn hidden_states(
        &self,
        tokens: &Tokens,
        types: Option<&Tokens>,
        sequences: &Sequences,
    ) -> Result<Vec<Tensor>> {
        let seen = self.seen(sequences)?;
        let mut x = self.embed(tokens, types, &seen)?;
        let mut states = vec![];
        for layer in &self.encoder.layers {
            let y = layer.forward(&x, &seen, sequences)?;
            states.push(std::mem::replace(&mut x, y));
        }
        states.push(x);
        Ok(states)
    }

    /// The sequences as convolutions see them.
    fn seen(&self, sequences: &Sequences) -> Result<Sequences> {
        match sequences.shape().layout() {
            Layout::Padded { time } if !self.mask_convolution => {
                Sequences::batch(sequences.shape().sequences(), time)
            }
            _ => Ok(sequences.clone()),
        }
    }

    fn embed(&self, tokens: &Tokens, types: Option<&Tokens>, sequences: &Sequences) -> Result<Tensor> {
        let of_type_0 = match types {
            Some(_) => None,
            None => Some(Tokens::from_slice(&vec![0; tokens.len()], tokens.shape(), tokens.device())?),
        };
        let x = self.embeddings.forward(tokens, types.or(of_type_0.as_ref()), sequences)?;
        let x = self.embeddings_norm.forward(&x, Residual::None)?;
        match &self.projection {
            Some(projection) => projection.forward(&x, None),
            None => Ok(x),
        }
    }
}
