//! Guesses as a table.

use comfy_table::{CellAlignment, Table, presets};

use crate::guess::Guess;

/// A row for each rank; for each mask its token and the probability, under the number of the mask where there are several.
pub(crate) fn render(masks: &[Vec<Guess>], word: impl Fn(u32) -> String) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if masks.len() > 1 {
        table.set_header((1..=masks.len()).flat_map(|mask| [format!("mask {mask}"), String::new()]));
    }
    for rank in 0..masks.iter().map(Vec::len).max().unwrap_or(0) {
        let cells = |guess: &Guess| [word(guess.token), format!("{:.4}", guess.probability)];
        table.add_row(masks.iter().filter_map(|guesses| guesses.get(rank)).flat_map(cells));
    }
    for column in table.column_iter_mut().skip(1).step_by(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(guesses: &[(u32, f32)]) -> Vec<Guess> {
        guesses.iter().map(|&(token, probability)| Guess { token, probability }).collect()
    }

    fn lines(masks: &[Vec<Guess>]) -> Vec<String> {
        let table = render(masks, |token| format!("w{token}"));
        table.trim_fmt().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_mask_is_a_list_and_several_are_a_table() {
        let (first, second) = (mask(&[(7, 0.75), (11, 0.125)]), mask(&[(3, 1.0), (5, 0.0)]));
        assert_eq!(lines(std::slice::from_ref(&first)), [" w7   0.7500", " w11  0.1250"]);
        assert_eq!(
            lines(&[first, second]),
            [" mask 1          mask 2", " w7      0.7500  w3      1.0000", " w11     0.1250  w5      0.0000"]
        );
    }
}
