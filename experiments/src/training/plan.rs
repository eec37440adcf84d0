use serde::Serialize;

/// How a model is trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What the run is called, in its checkpoint and on the screen: of letters, digits, `-` and `_`.
    pub name: String,
    /// What decides the result besides this plan, as sizes of the model: a checkpoint of other sizes is refused.
    pub settings: String,
    /// Steps in all.
    pub steps: usize,
    /// Steps between two points of the curve, each of which is saved.
    pub every: usize,
    /// The highest learning rate.
    pub rate: f64,
    /// How the learning rate goes.
    pub schedule: Rate,
}

/// How the learning rate goes over the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Rate {
    /// The same all the time.
    Constant,
    /// Up in a line for the first tenth of the steps, and down in a line to zero.
    UpAndDown,
}

impl Plan {
    /// The learning rate of a step, counted from zero.
    pub(crate) fn rate_at(&self, step: usize) -> f64 {
        match self.schedule {
            Rate::Constant => self.rate,
            Rate::UpAndDown => {
                let up = self.steps.div_ceil(10);
                let part = if step < up {
                    (step + 1) as f64 / up as f64
                } else {
                    (self.steps - step) as f64 / (self.steps - up + 1) as f64
                };
                self.rate * part
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_go_up_and_down() {
        let plan = |schedule| Plan {
            name: String::new(),
            settings: String::new(),
            steps: 20,
            every: 1,
            rate: 2.0,
            schedule,
        };
        let rates = |schedule| (0..20).map(move |step| plan(schedule).rate_at(step));
        assert!(rates(Rate::Constant).all(|rate| rate == 2.0));
        let found: Vec<f64> = rates(Rate::UpAndDown).collect();
        assert_eq!(found[..2], [1.0, 2.0]);
        assert!(found[1..].windows(2).all(|pair| pair[0] > pair[1]) && found[19] > 0.0);
    }
}
