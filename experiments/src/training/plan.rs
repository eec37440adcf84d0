use serde::Serialize;

/// Points of a curve.
const POINTS: usize = 10;

/// How a model is trained. The learning rate goes up in a line for the first tenth of the steps, and down in a line to zero.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What the run is called, in its checkpoint and on the screen: of letters, digits, `.`, `_` and `-`.
    pub(crate) name: String,
    /// What decides the result besides this plan, as sizes of the model: a checkpoint of other sizes is refused.
    settings: String,
    /// Steps in all.
    pub(crate) steps: usize,
    /// Steps between two points of the curve, each of which is saved.
    pub(crate) every: usize,
    /// The highest learning rate.
    rate: f64,
}

impl Plan {
    /// A run of this name, in which what is no letter or digit becomes a dash, with what else decides its result.
    pub fn new(name: &str, settings: String, steps: usize, rate: f64) -> Self {
        let kept = |c: char| c.is_alphanumeric() || ['.', '_', '-'].contains(&c);
        let words: Vec<String> =
            name.split(|c| !kept(c)).filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
        Plan { name: words.join("-"), settings, steps, every: steps.div_ceil(POINTS), rate }
    }

    /// The learning rate of a step, counted from zero.
    pub(crate) fn rate_at(&self, step: usize) -> f64 {
        let up = self.steps.div_ceil(10);
        let part = if step < up {
            (step + 1) as f64 / up as f64
        } else {
            (self.steps - step) as f64 / (self.steps - up + 1) as f64
        };
        self.rate * part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_go_up_and_down() {
        let plan = Plan::new("", String::new(), 20, 2.0);
        let rates: Vec<f64> = (0..20).map(|step| plan.rate_at(step)).collect();
        assert_eq!(rates[..2], [1.0, 2.0]);
        assert!(rates[1..].windows(2).all(|pair| pair[0] > pair[1]) && rates[19] > 0.0);
    }

    #[test]
    fn names_are_those_of_files() {
        let plan = Plan::new("LSTM, attention last-3e-3-0", String::new(), 25, 1.0);
        assert_eq!(plan.name, "lstm-attention-last-3e-3-0");
        assert_eq!(plan.every, 3);
    }
}
