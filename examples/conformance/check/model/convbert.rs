use std::path::Path;

use lightspan::Device;
use lightspan::models::{ConvBertForMaskedLm, LoadOptions};

use super::super::{Agreement, Result};
use super::{Expected, padded, tokens};

const HIDDEN: [&str; 3] = ["hidden_state_0", "hidden_state_1", "hidden_state_2"];

/// All hidden states and the logits, of the padding too: the published models compute there as elsewhere.
pub(super) fn run(folder: &Path, expected: &Expected, device: &Device) -> Result<Vec<Agreement>> {
    let (_, model) = ConvBertForMaskedLm::load(folder, device, LoadOptions::default())?;
    let ids = expected.integers("input_ids")?;
    let (_, mask) = expected.integers("attention_mask")?;
    let sequences = padded(ids.0, |i| mask[i] != 0)?;
    let types = tokens(&expected.integers("token_type_ids")?, device)?;
    let ids = tokens(&ids, device)?;
    let hidden = model.convbert.hidden_states(&ids, Some(&types), &sequences)?;
    if hidden.len() != HIDDEN.len() {
        return Err(format!("{} hidden states, expected {}", hidden.len(), HIDDEN.len()).into());
    }
    let mut agreements = vec![];
    for (name, hidden) in HIDDEN.into_iter().zip(&hidden) {
        agreements.push(expected.agreement(name, hidden, |_| true)?);
    }
    let logits = model.forward(&ids, Some(&types), &sequences)?;
    agreements.push(expected.agreement("logits", &logits, |_| true)?);
    Ok(agreements)
}
