//! From texts with masks to guesses.

use lightspan::models::ConvBertForMaskedLm;
use lightspan::ops::{self, TopKOptions};
use lightspan::{Device, Error, Result, Sequences, Tokens};

use crate::masked::Masked;

/// A token that may stand behind a mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Guess {
    pub(crate) token: u32,
    pub(crate) probability: f32,
}

/// The `top` likeliest tokens behind each mask of each text, the likeliest first. All texts go through the model at once.
pub(crate) fn guesses(
    model: &ConvBertForMaskedLm,
    texts: &[Masked],
    top: usize,
    device: &Device,
) -> Result<Vec<Vec<Vec<Guess>>>> {
    if texts.is_empty() {
        return Ok(vec![]);
    }
    let (mut ids, mut types, mut masks, mut offsets) = (vec![], vec![], vec![], vec![0]);
    for text in texts {
        // Rows of the packed batch.
        masks.extend(text.masks.iter().map(|mask| (ids.len() + mask) as u32));
        ids.extend(&text.ids);
        types.extend(&text.types);
        offsets.push(ids.len());
    }
    let sequences = Sequences::packed(&offsets)?;
    let tokens = |ids: &[u32]| Tokens::from_slice(ids, &[ids.len()], device);
    let hidden = model.convbert.forward(&tokens(&ids)?, Some(&tokens(&types)?), &sequences)?;
    // The head costs as much as layers do: it runs at the masks alone.
    let hidden = ops::embedding(&tokens(&masks)?, &hidden, &Default::default())?;
    let logits = model.logits(&hidden)?;
    let (scores, found) = ops::top_k(&logits, top, &TopKOptions { log_softmax: true })?;
    let scores = scores.to_f32()?;
    if let Some(&got) = scores.iter().find(|score| score.is_nan()) {
        return Err(Error::NotFinite { what: "the probability of a token", got });
    }
    let guess = |(&token, score): (&u32, &f32)| Guess { token, probability: score.exp() };
    let guesses: Vec<Guess> = found.to_vec()?.iter().zip(&scores).map(guess).collect();
    let mut by_mask = guesses.chunks(top).map(<[Guess]>::to_vec);
    Ok(texts.iter().map(|text| by_mask.by_ref().take(text.masks.len()).collect()).collect())
}
