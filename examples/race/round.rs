//! What a race found: who took how long at which length.

/// Who races: what it is called, and how it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Racer {
    pub(crate) name: &'static str,
    /// Red, green and blue; those of Okabe and Ito 2008, which the colour-blind can tell apart too.
    pub(crate) colour: (u8, u8, u8),
    /// Convolutions are solid, attention is dashed.
    pub(crate) dashed: bool,
}

/// One racer at one length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measurement {
    /// The median of a call.
    pub(crate) seconds: f64,
    /// The least that the machine could take.
    pub(crate) floor: f64,
    /// The largest error as a fraction of what is allowed.
    pub(crate) error: f64,
}

impl Measurement {
    pub(crate) fn is_right(&self) -> bool {
        self.error <= 1.0
    }
}

/// A measurement, or why there is none.
pub(crate) type Entry = Result<Measurement, String>;

/// All racers at one length.
pub(crate) struct Round {
    pub(crate) length: usize,
    /// Sequences of a call.
    pub(crate) batch: usize,
    pub(crate) results: Vec<(Racer, Entry)>,
}

impl Round {
    pub(crate) fn is_right(&self) -> bool {
        self.results.iter().all(|(_, entry)| entry.as_ref().map_or(true, Measurement::is_right))
    }

    /// Tokens of a call, over the whole batch.
    pub(crate) fn tokens(&self) -> usize {
        self.batch * self.length
    }

    pub(crate) fn measurement(&self, racer: Racer) -> Option<&Measurement> {
        let (_, entry) = self.results.iter().find(|(of, _)| *of == racer)?;
        entry.as_ref().ok()
    }
}

/// A line for each racer that did not run at all lengths: from which on, and why.
pub(crate) fn missing(rounds: &[Round]) -> String {
    let mut lines = String::new();
    let mut told: Vec<Racer> = Vec::new();
    for round in rounds {
        for (racer, entry) in &round.results {
            if let (Err(reason), false) = (entry, told.contains(racer)) {
                let (length, name) = (round.length, racer.name);
                lines.push_str(&format!("-: from {length} tokens on {name} does not run: {reason}.\n"));
                told.push(*racer);
            }
        }
    }
    lines
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const ONE: Racer = Racer { name: "one", colour: (0, 0, 0), dashed: false };
    pub(crate) const OTHER: Racer = Racer { name: "other", colour: (0, 0, 0), dashed: true };
    pub(crate) const NONE: Racer = Racer { name: "none", colour: (0, 0, 0), dashed: true };

    /// Three racers, of which the last does not run.
    pub(crate) fn round(error: f64) -> Round {
        let fast = Measurement { seconds: 1e-3, floor: 0.5e-3, error };
        let results = vec![
            (ONE, Ok(fast)),
            (OTHER, Ok(Measurement { seconds: 4e-3, ..fast })),
            (NONE, Err("its scores are too large".to_owned())),
        ];
        Round { length: 64, batch: 2, results }
    }

    #[test]
    fn what_did_not_run_says_why_once() {
        let line = "-: from 64 tokens on none does not run: its scores are too large.\n";
        assert_eq!(missing(&[round(0.25), Round { length: 128, ..round(0.25) }]), line);
        assert!(round(0.25).measurement(NONE).is_none());
    }

    #[test]
    fn a_round_is_right_where_all_of_it_is() {
        assert!(round(1.0).is_right());
        for error in [1.5, f64::INFINITY, f64::NAN] {
            assert!(!round(error).is_right());
        }
    }
}
