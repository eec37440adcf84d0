//! From tokens to tokens.

use lightspan::models::{
    BeamSearch, Hypothesis, LightConvConfig, PositionKind, Seq2Seq, beam_search, greedy,
};
use lightspan::nn::Memory;
use lightspan::{Device, Sequences, Tokens};

use crate::args::Args;
use crate::shared::Result;

const LIMIT: usize = 200;

/// How translations are searched for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Search {
    /// How many are followed; none where the likeliest token is always taken.
    pub(crate) beams: Option<usize>,
    pub(crate) length_penalty: f32,
    pub(crate) limit: usize,
    /// The token that begins a translation and ends it.
    pub(crate) end: u32,
    /// What fills up sources that are shorter than others.
    pub(crate) padding: u32,
}

impl Search {
    pub(crate) fn new(args: &Args, config: &LightConvConfig) -> Result<Self> {
        let positions = longest(config);
        let limit = match args.limit {
            Some(limit) if limit.get() > positions => {
                return Err(format!("--limit {limit}: the model has positions for {positions} tokens").into());
            }
            Some(limit) => limit.get(),
            None => LIMIT.min(positions),
        };
        Ok(Search {
            beams: (!args.greedy).then_some(args.beams.get()),
            length_penalty: args.length_penalty,
            limit,
            end: u32::try_from(config.eos_index)?,
            padding: u32::try_from(config.padding_index)?,
        })
    }

    /// What translations are compared by.
    pub(crate) fn weighed(&self, found: &Hypothesis) -> f32 {
        let length = found.tokens.len() + usize::from(found.ended);
        found.score / (length.max(1) as f32).powf(self.length_penalty)
    }
}

/// The most tokens of a text that a model takes.
pub(crate) fn longest(config: &LightConvConfig) -> usize {
    if config.positions == PositionKind::None { usize::MAX } else { config.max_positions }
}

/// The best translation of each source, all of them at once. A source ends with the token that ends texts.
pub(crate) fn translate(
    model: &Seq2Seq,
    sources: &[&[u32]],
    search: &Search,
    device: &Device,
) -> Result<Vec<Hypothesis>> {
    let Search { limit, end, padding, length_penalty, .. } = *search;
    let lengths: Vec<usize> = sources.iter().map(|source| source.len()).collect();
    let (batch, time) = (sources.len(), lengths.iter().copied().max().unwrap_or(0));
    if batch == 0 {
        return Ok(vec![]);
    }
    let mut ids = vec![padding; batch * time];
    for (row, source) in ids.chunks_exact_mut(time).zip(sources) {
        row[..source.len()].copy_from_slice(source);
    }
    let sequences = Sequences::padded(time, &lengths)?;
    let encoded = model.encode(&Tokens::from_slice(&ids, &[batch, time], device)?, &sequences)?;
    let mut state = model.begin(Memory { tokens: &encoded, sequences: &sequences })?;
    let (begin, one_each) =
        (Tokens::from_slice(&vec![end; batch], &[batch, 1], device)?, Sequences::batch(batch, 1)?);
    let Some(beams) = search.beams else {
        return Ok(greedy(model, &mut state, &begin, &one_each, Some(end), limit)?);
    };
    let beam = BeamSearch { beams, end, limit, length_penalty };
    let found = beam_search(model, state, &begin, &one_each, &beam)?;
    let best = |found: Vec<Hypothesis>| found.into_iter().next().ok_or("no translation is possible".into());
    found.into_iter().map(best).collect()
}
