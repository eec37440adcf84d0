use crate::models::decoding::last;
use crate::models::{Generator, Hypothesis};
use crate::nn::DecoderState;
use crate::ops::{self, TopKOptions};
use crate::{Error, Result, Sequences, Tokens};

/// The likeliest token, and then the likeliest after it, until `end` or for `limit` tokens: for each sequence what follows the
/// prompt, of which each has a token at least.
///
/// # Errors
///
/// As [`Generator::step`]; [`Error::EmptyPrompt`], and [`Error::NotFinite`] where the model gives no probabilities.
pub fn greedy(
    model: &impl Generator,
    state: &mut DecoderState,
    prompt: &Tokens,
    sequences: &Sequences,
    end: Option<u32>,
    limit: usize,
) -> Result<Vec<Hypothesis>> {
    let count = sequences.shape().sequences();
    let begun = Hypothesis { tokens: vec![], score: 0.0, ended: false };
    let mut found = vec![begun; count];
    if count == 0 || limit == 0 {
        return Ok(found);
    }
    let one_each = Sequences::batch(count, 1)?;
    let mut logits = last(model.step(prompt, sequences, state)?, sequences)?;
    for step in 1.. {
        let (scores, tokens) = ops::top_k(&logits, 1, &TopKOptions { log_softmax: true })?;
        for ((found, token), score) in found.iter_mut().zip(tokens.to_vec()?).zip(scores.to_f32()?) {
            if !score.is_finite() {
                return Err(Error::NotFinite { what: "the probability of the next token", got: score });
            }
            if !found.ended {
                found.score += score;
                found.ended = Some(token) == end;
                if !found.ended {
                    found.tokens.push(token);
                }
            }
        }
        if step == limit || found.iter().all(|found| found.ended) {
            break;
        }
        logits = last(model.step(&tokens, &one_each, state)?, &one_each)?;
    }
    Ok(found)
}
