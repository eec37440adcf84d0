//! The results as a table.

use comfy_table::{CellAlignment, Table, presets};

use crate::format::significant;
use crate::round::{Entry, Measurement, Racer, Round};

/// A column after those of the length and the racer.
pub(crate) struct Column {
    pub(crate) head: &'static str,
    pub(crate) cell: fn(&Round, &Measurement) -> String,
}

/// Milliseconds of a call.
pub(crate) const MILLISECONDS: Column =
    Column { head: "ms", cell: |_, result| significant(1e3 * result.seconds) };

/// How many times the least time it took.
pub(crate) const OVER_FLOOR: Column =
    Column { head: "time over\nfloor", cell: |_, result| times(result.seconds / result.floor) };

/// The error, and whether that is too much.
pub(crate) fn verdict(_: &Round, result: &Measurement) -> String {
    let verdict = if result.is_right() { "" } else { " FAILED" };
    format!("{}{verdict}", significant(result.error))
}

/// How many times as long another takes.
pub(crate) fn speed_up(round: &Round, result: &Measurement, over: Racer) -> String {
    round.measurement(over).map_or("-".to_owned(), |other| times(other.seconds / result.seconds))
}

fn times(ratio: f64) -> String {
    format!("{}x", significant(ratio))
}

/// Rows of racers, grouped by length; `who` is what they are.
pub(crate) fn render(rounds: &[Round], who: &str, columns: &[Column]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["length", who].into_iter().chain(columns.iter().map(|column| column.head)));
    for round in rounds {
        // One row of the table with a line for each racer, so that rules are drawn between lengths only.
        let lines = |cell: &dyn Fn(&(Racer, Entry)) -> String| {
            round.results.iter().map(cell).collect::<Vec<_>>().join("\n")
        };
        let names = lines(&|(racer, _)| racer.name.to_owned());
        let cells = columns.iter().map(|column| {
            lines(&|(_, entry)| entry.as_ref().map_or("-".to_owned(), |result| (column.cell)(round, result)))
        });
        table.add_row([round.length.to_string(), names].into_iter().chain(cells));
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(if i == 1 { CellAlignment::Left } else { CellAlignment::Right });
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::tests::{NONE, ONE, OTHER, round};

    #[test]
    fn cells_of_a_measurement() {
        let round = round(0.25);
        let result = round.measurement(ONE).unwrap();
        assert_eq!((MILLISECONDS.cell)(&round, result), "1.00");
        assert_eq!((OVER_FLOOR.cell)(&round, result), "2.00x");
        assert_eq!(verdict(&round, result), "0.250");
        assert_eq!(speed_up(&round, result, OTHER), "4.00x");
        assert_eq!(speed_up(&round, result, NONE), "-");
    }

    #[test]
    fn what_is_wrong_says_so_and_what_did_not_run_is_a_dash() {
        for error in [1.5, f64::INFINITY] {
            let table =
                render(&[round(error)], "who", &[Column { head: "error", cell: verdict }]).to_string();
            assert_eq!(table.matches("FAILED").count(), 2, "{table}");
            assert!(
                table.lines().any(|line| line.contains("none") && line.trim_end().ends_with('-')),
                "{table}"
            );
        }
    }
}
