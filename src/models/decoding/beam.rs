use crate::models::decoding::last;
use crate::models::{Generator, Hypothesis};
use crate::nn::DecoderState;
use crate::ops::{self, TopKOptions};
use crate::{Error, Result, Sequences, Tokens};

/// How a beam search goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamSearch {
    /// Hypotheses that are followed for each sequence, and that come back.
    pub beams: usize,
    /// The token that ends a text.
    pub end: u32,
    /// The most tokens that are made, that of the end included.
    pub limit: usize,
    /// Hypotheses are compared by score / length^penalty, the length with the end: 0 favours short ones, 1 compares means.
    pub length_penalty: f32,
}

/// The best continuations of each sequence, the best first: at each step the likeliest `beams` that go on are followed, and a
/// sequence is done when as many have ended. One that has not ended at the limit comes back as it is.
///
/// `state` is of one sequence for each of the prompt, and is used up.
///
/// # Errors
///
/// As [`Generator::step`] and [`DecoderState::reorder`]; [`Error::ZeroSize`] for no beams, [`Error::EmptyPrompt`], and
/// [`Error::NotFinite`] where the model gives no probabilities.
pub fn beam_search(
    model: &impl Generator,
    mut state: DecoderState,
    prompt: &Tokens,
    sequences: &Sequences,
    search: &BeamSearch,
) -> Result<Vec<Vec<Hypothesis>>> {
    let BeamSearch { beams, limit, .. } = *search;
    if beams == 0 {
        return Err(Error::ZeroSize { what: "beams" });
    }
    let count = sequences.shape().sequences();
    let mut found = vec![Found::begin(); count];
    if count == 0 || limit == 0 {
        return Ok(found.into_iter().map(|found| found.best(search)).collect());
    }
    let device = prompt.device().clone();
    let mut logits = last(model.step(prompt, sequences, &mut state)?, sequences)?;
    for step in 1.. {
        let vocabulary = logits.shape().last().copied().unwrap_or(0);
        // Of twice as many, as many go on, whichever end the text.
        let k = beams.saturating_mul(2).min(vocabulary);
        let (scores, tokens) = ops::top_k(&logits, k, &TopKOptions { log_softmax: true })?;
        let (scores, tokens) = (scores.to_f32()?, tokens.to_vec()?);
        // What each beam goes on from, as a sequence of the state, and its next token.
        let (mut from, mut next) = (vec![], vec![]);
        let mut first = 0;
        for found in &mut found {
            let live = found.live.len();
            let rows = first * k..(first + live) * k;
            for (beam, token) in found.step(&scores[rows.clone()], &tokens[rows], k, search)? {
                from.push(first + beam);
                next.push(token);
            }
            first += live;
        }
        if step == limit || next.is_empty() {
            break;
        }
        state = state.reorder(&from)?;
        let one_each = Sequences::batch(next.len(), 1)?;
        let next = Tokens::from_slice(&next, &[next.len(), 1], &device)?;
        logits = last(model.step(&next, &one_each, &mut state)?, &one_each)?;
    }
    Ok(found.into_iter().map(|found| found.best(search)).collect())
}

/// The hypotheses of one sequence.
#[derive(Clone, Debug)]
struct Found {
    /// Those that go on, the best first; none when the sequence is done.
    live: Vec<Hypothesis>,
    ended: Vec<Hypothesis>,
}

impl Found {
    fn begin() -> Self {
        Found { live: vec![Hypothesis { tokens: vec![], score: 0.0, ended: false }], ended: vec![] }
    }

    /// Goes on by a token; gives, of each hypothesis that lives, the one it comes from and the token.
    ///
    /// `scores` and `tokens` are the k likeliest of each one that lived.
    fn step(
        &mut self,
        scores: &[f32],
        tokens: &[u32],
        k: usize,
        search: &BeamSearch,
    ) -> Result<Vec<(usize, u32)>> {
        if let Some(&got) = scores.iter().find(|score| score.is_nan() || **score == f32::INFINITY) {
            return Err(Error::NotFinite { what: "the probability of the next token", got });
        }
        let mut candidates: Vec<(f32, usize, u32)> = vec![];
        for (i, (&score, &token)) in scores.iter().zip(tokens).enumerate() {
            let beam = i / k;
            candidates.push((self.live[beam].score + score, beam, token));
        }
        // What cannot be is no candidate. The sort is stable: equal scores stay in the order of beams, and of tokens in them.
        candidates.retain(|&(score, ..)| score > f32::NEG_INFINITY);
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut live, mut from) = (vec![], vec![]);
        for (rank, &(score, beam, token)) in candidates.iter().enumerate() {
            let mut hypothesis = Hypothesis { score, ..self.live[beam].clone() };
            if token == search.end {
                // An end that is not among the best does not count: a better one may come.
                if rank < search.beams && self.ended.len() < search.beams {
                    self.ended.push(Hypothesis { ended: true, ..hypothesis });
                }
            } else if live.len() < search.beams {
                hypothesis.tokens.push(token);
                live.push(hypothesis);
                from.push((beam, token));
            }
        }
        if self.ended.len() == search.beams {
            (live, from) = (vec![], vec![]);
        }
        self.live = live;
        Ok(from)
    }

    /// The best of those that ended and, where there are not enough, of those that did not.
    fn best(self, search: &BeamSearch) -> Vec<Hypothesis> {
        let weighed = |hypothesis: &Hypothesis| {
            let length = hypothesis.tokens.len() + usize::from(hypothesis.ended);
            hypothesis.score / (length.max(1) as f32).powf(search.length_penalty)
        };
        let mut best = self.ended;
        let mut live = self.live;
        for hypotheses in [&mut best, &mut live] {
            hypotheses.sort_by(|a, b| weighed(b).total_cmp(&weighed(a)));
        }
        best.extend(live);
        best.truncate(search.beams);
        best
    }
}
