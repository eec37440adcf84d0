//! The results as a table.

use comfy_table::{CellAlignment, Table, presets};

use crate::format::significant;
use crate::operator::Operator;

/// One operator at one length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measurement {
    /// The median of a call.
    pub(crate) seconds: f64,
    /// The least that the machine could take.
    pub(crate) floor: f64,
    /// The largest error as a fraction of the bound.
    pub(crate) error: f64,
}

impl Measurement {
    fn is_right(&self) -> bool {
        self.error <= 1.0
    }
}

/// A measurement, or why there is none.
pub(crate) type Entry = Result<Measurement, String>;

/// All operators at one length.
pub(crate) struct Round {
    pub(crate) length: usize,
    /// Tokens of a call, over the whole batch.
    pub(crate) tokens: usize,
    pub(crate) results: Vec<(Operator, Entry)>,
}

impl Round {
    pub(crate) fn is_right(&self) -> bool {
        self.results.iter().all(|(_, entry)| entry.as_ref().map_or(true, Measurement::is_right))
    }

    pub(crate) fn seconds(&self, operator: Operator) -> Option<f64> {
        let (_, entry) = self.results.iter().find(|(of, _)| *of == operator)?;
        entry.as_ref().ok().map(|result| result.seconds)
    }

    /// The seven cells of one operator, after the length.
    fn cells(&self, operator: Operator, entry: &Entry) -> [String; 7] {
        let Ok(result) = entry else {
            let mut cells = [const { String::new() }; 7].map(|_| "-".to_owned());
            cells[0] = operator.to_string();
            return cells;
        };
        let Measurement { seconds, floor, error } = *result;
        let times = |ratio: f64| format!("{}x", significant(ratio));
        let speed_up = |over| self.seconds(over).map_or("-".to_owned(), |other| times(other / seconds));
        let verdict = if result.is_right() { "" } else { " FAILED" };
        [
            operator.to_string(),
            significant(1e3 * seconds),
            significant(1e-6 * self.tokens as f64 / seconds),
            speed_up(Operator::NaiveAttention),
            speed_up(Operator::FusedAttention),
            times(seconds / floor),
            format!("{}{verdict}", significant(error)),
        ]
    }
}

/// Rows of operators, grouped by length.
pub(crate) fn render(rounds: &[Round]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "length",
        "operator",
        "ms",
        "Mtokens/s",
        "speed-up over\nnaive attention",
        "speed-up over\nfused attention",
        "time over\nfloor",
        "error over\nbound",
    ]);
    for round in rounds {
        // One row of the table with a line for each operator, so that rules are drawn between lengths only.
        let mut columns = [const { Vec::new() }; 7];
        for (operator, entry) in &round.results {
            for (column, cell) in columns.iter_mut().zip(round.cells(*operator, entry)) {
                column.push(cell);
            }
        }
        let columns = columns.map(|column| column.join("\n"));
        table.add_row(std::iter::once(round.length.to_string()).chain(columns));
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(if i == 1 { CellAlignment::Left } else { CellAlignment::Right });
    }
    table
}

/// What a reader of the table has to know.
pub(crate) fn notes(rounds: &[Round]) -> String {
    let mut notes = String::from(
        "Times are medians of one forward call; kernel generation counts, projections to q, k and v do not.\n\
         The floor is the larger of bytes over bandwidth and operations over arithmetic, by the rates above; inputs\n\
         that are in cache can beat it. Errors are against the f64 reference, on a sample of tokens.\n",
    );
    for operator in Operator::ALL {
        let missing = rounds.iter().find_map(|round| {
            let (_, entry) = round.results.iter().find(|(of, _)| *of == operator)?;
            Some((round.length, entry.as_ref().err()?))
        });
        if let Some((length, reason)) = missing {
            notes.push_str(&format!("-: from {length} tokens on {operator} does not run: {reason}.\n"));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(error: f64) -> Round {
        let fast = Measurement { seconds: 1e-3, floor: 0.5e-3, error };
        let results = vec![
            (Operator::LightConv, Ok(fast)),
            (Operator::NaiveAttention, Err("its scores are too large".to_owned())),
            (Operator::FusedAttention, Ok(Measurement { seconds: 4e-3, ..fast })),
        ];
        Round { length: 64, tokens: 128, results }
    }

    #[test]
    fn cells_of_an_operator() {
        let round = round(0.25);
        let cells = ["light_conv", "1.00", "0.128", "-", "4.00x", "2.00x", "0.250"];
        assert_eq!(round.cells(Operator::LightConv, &round.results[0].1), cells);
        let cells = ["naive attention", "-", "-", "-", "-", "-", "-"];
        assert_eq!(round.cells(Operator::NaiveAttention, &round.results[1].1), cells);
        assert!(round.is_right());
    }

    #[test]
    fn what_is_wrong_says_so() {
        for error in [1.5, f64::INFINITY] {
            assert!(!round(error).is_right());
            assert!(render(&[round(error)]).to_string().contains("FAILED"));
        }
    }

    #[test]
    fn what_did_not_run_says_why() {
        let line = "-: from 64 tokens on naive attention does not run: its scores are too large.";
        assert!(notes(&[round(0.25)]).lines().any(|note| note == line));
    }

    #[test]
    fn the_table_fits_a_terminal() {
        assert!(render(&[round(f64::INFINITY)]).lines().all(|line| line.chars().count() <= 120));
    }
}
