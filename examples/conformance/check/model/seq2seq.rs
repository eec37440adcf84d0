use std::path::Path;

use lightspan::models::{Generator, LightConvConfig, LoadOptions, greedy};
use lightspan::nn::Memory;
use lightspan::{Device, Sequences, Tensor, Tokens};

use super::super::{Agreement, Result};
use super::{Expected, padded, tokens};

/// What the encoder gives, the logits by teacher forcing, and those of a greedy search token by token with its tokens.
pub(super) fn run(folder: &Path, expected: &Expected, device: &Device) -> Result<Vec<Agreement>> {
    let (config, model) = LightConvConfig::load(folder, device, LoadOptions::default())?;
    let source = expected.integers("source_tokens")?;
    let is_token = |i: usize| source.1[i] as usize != config.padding_index;
    let sequences = padded(source.0, is_token)?;
    let encoded = model.encode(&tokens(&source, device)?, &sequences)?;
    let mut agreements = vec![expected.agreement("encoder_out", &encoded, is_token)?];

    let memory = Memory { tokens: &encoded, sequences: &sequences };
    let target = expected.integers("previous_output_tokens")?;
    let [batch, time] = target.0;
    let logits = model.forward(&tokens(&target, device)?, &Sequences::batch(batch, time)?, memory)?;
    agreements.push(expected.agreement("logits", &logits, |_| true)?);

    let ([_, steps], found) = expected.integers("greedy_tokens")?;
    let (one_each, mut state) = (Sequences::batch(batch, 1)?, model.begin(memory)?);
    let column =
        |step: usize| -> Vec<u32> { (0..batch).map(|sequence| found[sequence * steps + step]).collect() };
    let mut rows = vec![vec![]; batch];
    for step in 0..steps - 1 {
        let next = Tokens::from_slice(&column(step), &[batch, 1], device)?;
        let logits = model.step(&next, &one_each, &mut state)?.to_f32()?;
        for (row, logits) in rows.iter_mut().zip(logits.chunks_exact(logits.len() / batch)) {
            row.extend_from_slice(logits);
        }
    }
    let rows = rows.concat();
    let shape = [batch, steps - 1, rows.len() / batch / (steps - 1)];
    let logits = Tensor::from_slice(&rows, &shape, &Device::cpu())?;
    agreements.push(expected.agreement("greedy_logits", &logits, |_| true)?);

    let prompt = Tokens::from_slice(&column(0), &[batch, 1], device)?;
    let texts = greedy(&model, &mut model.begin(memory)?, &prompt, &one_each, None, steps - 1)?;
    for (sequence, text) in texts.iter().enumerate() {
        let expected = &found[sequence * steps + 1..(sequence + 1) * steps];
        if text.tokens != expected {
            return Err(
                format!("greedy_tokens of {sequence} are {:?}, expected {expected:?}", text.tokens).into()
            );
        }
    }
    Ok(agreements)
}
