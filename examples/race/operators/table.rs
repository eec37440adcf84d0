//! The operators beside one another.

use super::operator::Operator;
use crate::format::significant;
use crate::round::{Round, missing};
use crate::table::{Column, MILLISECONDS, OVER_FLOOR, speed_up, verdict};

pub(crate) const COLUMNS: [Column; 6] = [
    MILLISECONDS,
    Column {
        head: "Mtokens/s",
        cell: |round, result| significant(1e-6 * round.tokens() as f64 / result.seconds),
    },
    Column {
        head: "speed-up over\nnaive attention",
        cell: |round, result| speed_up(round, result, Operator::NaiveAttention.racer()),
    },
    Column {
        head: "speed-up over\nfused attention",
        cell: |round, result| speed_up(round, result, Operator::FusedAttention.racer()),
    },
    OVER_FLOOR,
    Column { head: "error over\nbound", cell: verdict },
];

/// What a reader of the table has to know.
pub(crate) fn notes(rounds: &[Round]) -> String {
    format!(
        "Times are medians of one forward call; kernel generation counts, projections to q, k and v do not.\n\
         The floor is the larger of bytes over bandwidth and operations over arithmetic, by the rates above; inputs\n\
         that are in cache can beat it. Errors are against the f64 reference, on a sample of tokens.\n{}",
        missing(rounds)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::Measurement;
    use crate::table::render;

    #[test]
    fn the_table_fits_a_terminal() {
        let slow = Measurement { seconds: 1e3, floor: 1e-3, error: f64::INFINITY };
        let results = Operator::ALL.map(|operator| (operator.racer(), Ok(slow))).to_vec();
        let table = render(&[Round { length: 4096, batch: 1, results }], "operator", &COLUMNS);
        assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
    }
}
