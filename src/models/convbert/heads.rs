use std::path::Path;

use crate::models::convbert::layers::norm;
use crate::models::{ConvBert, ConvBertConfig, LoadOptions, Weights, config as json};
use crate::nn::{Linear, Norm};
use crate::ops::{self, Residual};
use crate::problem::Activation;
use crate::{Device, Error, Result, Sequences, Tensor, Tokens};

/// ConvBERT with the head that guesses masked tokens: a masked language model, and the generator that a [`ConvBertDiscriminator`]
/// is trained with.
#[derive(Clone, Debug)]
pub struct ConvBertForMaskedLm {
    /// The encoder.
    pub convbert: ConvBert,
    /// From its channels to those of embeddings, with GELU.
    pub dense: Linear,
    /// Of what that gives.
    pub norm: Norm,
    /// From the channels of embeddings to logits `[.., V]`.
    pub decoder: Linear,
}

impl ConvBertForMaskedLm {
    /// The model of these weights.
    ///
    /// # Errors
    ///
    /// As [`ConvBert::new`] and [`Weights::finish`].
    pub fn new(config: &ConvBertConfig, weights: &Weights<'_>) -> Result<Self> {
        let convbert = ConvBert::new(config, &weights.at("convbert"))?;
        let (c, e, v) = (config.hidden_size, config.embedding_size, config.vocab_size);
        let (head, logits) = (weights.at("generator_predictions"), weights.at("generator_lm_head"));
        let dense = head.at("dense").linear(c, e, true)?;
        let decoder = if config.tie_word_embeddings {
            let table = (weights, "convbert.embeddings.word_embeddings.weight");
            logits.tied("weight", table, &[v, e], "tie_word_embeddings")?;
            Linear { bias: Some(logits.get("bias", &[v])?), ..Linear::new(convbert.embeddings.table.clone()) }
        } else {
            logits.linear(e, v, true)?
        };
        let model = ConvBertForMaskedLm {
            convbert,
            // transformers takes GELU here, whatever the layers have.
            dense: Linear { activation: Activation::Gelu, ..dense },
            norm: norm(config, &head, e)?,
            decoder,
        };
        weights.finish()?;
        Ok(model)
    }

    /// The model in a folder with `config.json` and `model.safetensors`.
    ///
    /// # Errors
    ///
    /// As [`ConvBertForMaskedLm::new`], and for files that cannot be read.
    pub fn load(
        folder: impl AsRef<Path>,
        device: &Device,
        options: LoadOptions<'_>,
    ) -> Result<(ConvBertConfig, Self)> {
        json::load(folder.as_ref(), device, options, Self::new)
    }

    /// The logits `[.., V]` of each token.
    ///
    /// # Errors
    ///
    /// As [`ConvBert::forward`].
    pub fn forward(&self, tokens: &Tokens, types: Option<&Tokens>, sequences: &Sequences) -> Result<Tensor> {
        self.logits(&self.convbert.forward(tokens, types, sequences)?)
    }

    /// The logits `[.., V]` of what the encoder gives, or of some rows of it.
    ///
    /// # Errors
    ///
    /// As [`ops::linear`] and [`ops::layer_norm`].
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let x = self.norm.forward(&self.dense.forward(hidden, None)?, Residual::None)?;
        self.decoder.forward(&x, None)
    }
}

/// ConvBERT with a head that tells classes of whole sequences by their first token.
#[derive(Clone, Debug)]
pub struct ConvBertForSequenceClassification {
    /// The encoder.
    pub convbert: ConvBert,
    /// From its channels to as many, with the activation of its layers.
    pub dense: Linear,
    /// From those to logits.
    pub output: Linear,
}

impl ConvBertForSequenceClassification {
    /// The model of these weights.
    ///
    /// # Errors
    ///
    /// As [`ConvBert::new`] and [`Weights::finish`].
    pub fn new(config: &ConvBertConfig, weights: &Weights<'_>) -> Result<Self> {
        let convbert = ConvBert::new(config, &weights.at("convbert"))?;
        let (head, c) = (weights.at("classifier"), config.hidden_size);
        let dense = head.at("dense").linear(c, c, true)?;
        let model = ConvBertForSequenceClassification {
            convbert,
            dense: Linear { activation: config.activation()?, ..dense },
            output: head.at("out_proj").linear(c, config.labels(), true)?,
        };
        weights.finish()?;
        Ok(model)
    }

    /// The model in a folder with `config.json` and `model.safetensors`.
    ///
    /// # Errors
    ///
    /// As [`ConvBertForSequenceClassification::new`], and for files that cannot be read.
    pub fn load(
        folder: impl AsRef<Path>,
        device: &Device,
        options: LoadOptions<'_>,
    ) -> Result<(ConvBertConfig, Self)> {
        json::load(folder.as_ref(), device, options, Self::new)
    }

    /// The logits `[sequences, labels]`. Each sequence has a token at least.
    ///
    /// # Errors
    ///
    /// As [`ConvBert::forward`]; [`Error::EmptyPrompt`] for a sequence without tokens.
    pub fn forward(&self, tokens: &Tokens, types: Option<&Tokens>, sequences: &Sequences) -> Result<Tensor> {
        if let Some(sequence) = sequences.as_slice().iter().position(|sequence| sequence.length == 0) {
            return Err(Error::EmptyPrompt { sequence });
        }
        let hidden = self.convbert.forward(tokens, types, sequences)?;
        let (device, channels) = (hidden.device().clone(), hidden.shape().last().copied().unwrap_or(0));
        let hidden = hidden.reshape(&[sequences.shape().tokens(), channels])?;
        let first = sequences.as_slice().iter().map(|sequence| sequence.first);
        let first = Tokens::of_rows(first, &[sequences.shape().sequences()], &device)?;
        let first = ops::embedding(&first, &hidden, &Default::default())?;
        self.output.forward(&self.dense.forward(&first, None)?, None)
    }
}

/// ConvBERT as a discriminator: which tokens a generator has replaced (Clark et al. 2020; Jiang et al. 2020, section 4.1). With the
/// names of transformers' ELECTRA.
#[derive(Clone, Debug)]
pub struct ConvBertDiscriminator {
    /// The encoder.
    pub convbert: ConvBert,
    /// From its channels to as many, with the activation of its layers.
    pub dense: Linear,
    /// From those to a logit.
    pub prediction: Linear,
}

impl ConvBertDiscriminator {
    /// The model of these weights.
    ///
    /// # Errors
    ///
    /// As [`ConvBert::new`] and [`Weights::finish`].
    pub fn new(config: &ConvBertConfig, weights: &Weights<'_>) -> Result<Self> {
        let convbert = ConvBert::new(config, &weights.at("convbert"))?;
        let (head, c) = (weights.at("discriminator_predictions"), config.hidden_size);
        let dense = head.at("dense").linear(c, c, true)?;
        let model = ConvBertDiscriminator {
            convbert,
            dense: Linear { activation: config.activation()?, ..dense },
            prediction: head.at("dense_prediction").linear(c, 1, true)?,
        };
        weights.finish()?;
        Ok(model)
    }

    /// The model in a folder with `config.json` and `model.safetensors`.
    ///
    /// # Errors
    ///
    /// As [`ConvBertDiscriminator::new`], and for files that cannot be read.
    pub fn load(
        folder: impl AsRef<Path>,
        device: &Device,
        options: LoadOptions<'_>,
    ) -> Result<(ConvBertConfig, Self)> {
        json::load(folder.as_ref(), device, options, Self::new)
    }

    /// The logits `[..]` of each token: above zero where it seems replaced.
    ///
    /// # Errors
    ///
    /// As [`ConvBert::forward`].
    pub fn forward(&self, tokens: &Tokens, types: Option<&Tokens>, sequences: &Sequences) -> Result<Tensor> {
        let hidden = self.convbert.forward(tokens, types, sequences)?;
        self.prediction.forward(&self.dense.forward(&hidden, None)?, None)?.reshape(tokens.shape())
    }
}
