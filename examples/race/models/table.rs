//! The encoders beside one another.

use super::encoder::Kind;
use crate::format::significant;
use crate::round::{Measurement, Round, missing};
use crate::table::{Column, MILLISECONDS, OVER_FLOOR, speed_up, verdict};

pub(crate) const COLUMNS: [Column; 6] = [
    MILLISECONDS,
    Column { head: "sequences/s", cell: |round, result| significant(sequences_per_second(round, result)) },
    Column {
        head: "ktokens/s",
        cell: |round, result| significant(1e-3 * round.tokens() as f64 / result.seconds),
    },
    Column {
        head: "speed-up over\nTransformer",
        cell: |round, result| speed_up(round, result, Kind::Transformer.racer()),
    },
    OVER_FLOOR,
    Column { head: "error over\ntolerance", cell: verdict },
];

pub(crate) fn sequences_per_second(round: &Round, result: &Measurement) -> f64 {
    round.batch as f64 / result.seconds
}

/// What a reader of the table has to know. `parameters` are those of each encoder, in the order of [`Kind::ALL`].
pub(crate) fn notes(rounds: &[Round], parameters: &[usize]) -> String {
    let millions = |(kind, &count): (&Kind, &usize)| {
        format!("{} {}", kind.racer().name, significant(1e-6 * count as f64))
    };
    let parameters: Vec<String> = Kind::ALL.iter().zip(parameters).map(millions).collect();
    format!(
        "Times are medians of one pass through the encoder, forward, from the ids of tokens to what its last norm gives; the\n\
         paper's are of steps of pre-training, encoder and decoder, on TPUs. The weights are drawn. Millions of parameters,\n\
         with positions: {}.\n\
         The floor is the sum of those of the operators, one after another: the larger of bytes over bandwidth and operations\n\
         over arithmetic, by the rates above. Errors are against the layers in f64 on the first tokens of the text; what was\n\
         timed has to be finite.\n{}",
        parameters.join(", "),
        missing(rounds)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::render;

    #[test]
    fn the_table_fits_a_terminal() {
        let slow = Measurement { seconds: 1e3, floor: 1e-3, error: f64::INFINITY };
        let results = Kind::ALL.map(|kind| (kind.racer(), Ok(slow))).to_vec();
        let rounds = [Round { length: 4096, batch: 1, results }];
        let table = render(&rounds, "encoder", &COLUMNS);
        assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
        let notes = notes(&rounds, &[1_000_000; 5]);
        assert!(notes.contains("dynamic 1.00, Transformer 1.00."), "{notes}");
    }

    #[test]
    fn examples_are_sequences() {
        let result = Measurement { seconds: 0.5, floor: 0.1, error: 0.0 };
        let round = Round { length: 64, batch: 3, results: vec![] };
        assert_eq!(sequences_per_second(&round, &result), 6.0);
    }
}
