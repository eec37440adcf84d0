use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

/// Adam (Kingma and Ba 2015, algorithm 1), whose state can be read and set: candle's own keeps it to itself, and so could not go on
/// where it stopped.
pub struct Adam {
    /// Decay of the means of gradients and of their squares, 0.9 and 0.98 by default (Wu et al. 2019).
    pub betas: [f64; 2],
    /// What is added to the root of the second mean.
    pub eps: f64,
    variables: BTreeMap<String, Var>,
    moments: BTreeMap<String, [Tensor; 2]>,
    steps: usize,
}

impl Adam {
    /// For these variables, with means of zero.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn new(variables: BTreeMap<String, Var>) -> Result<Self> {
        let zeros = |(name, var): (&String, &Var)| {
            Ok((
                name.clone(),
                [var.as_detached_tensor().zeros_like()?, var.as_detached_tensor().zeros_like()?],
            ))
        };
        let moments = variables.iter().map(zeros).collect::<Result<_>>()?;
        Ok(Adam { betas: [0.9, 0.98], eps: 1e-8, variables, moments, steps: 0 })
    }

    /// Goes one step against gradients, which are scaled down where their norm over all variables is above `clip`. A variable that
    /// has none stays as it is.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn step(&mut self, gradients: &GradStore, rate: f64, clip: f64) -> Result<()> {
        self.steps += 1;
        let found: Vec<(&String, &Tensor)> =
            self.variables.iter().filter_map(|(name, var)| Some((name, gradients.get(var)?))).collect();
        let mut squares = 0.0;
        for (_, gradient) in &found {
            squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        let scale = (clip / squares.sqrt()).min(1.0);
        let [corrected_first, corrected_second] =
            self.betas.map(|beta| 1.0 - beta.powi(i32::try_from(self.steps).unwrap_or(i32::MAX)));
        for (name, gradient) in found {
            // What is kept is to hold no graph of how it was computed.
            let gradient = gradient.detach().affine(scale, 0.0)?;
            let Some([first, second]) = self.moments.get_mut(name) else { continue };
            *first = (first.affine(self.betas[0], 0.0)? + gradient.affine(1.0 - self.betas[0], 0.0)?)?;
            let squared = gradient.sqr()?.affine(1.0 - self.betas[1], 0.0)?;
            *second = (second.affine(self.betas[1], 0.0)? + squared)?;
            let root = second.affine(1.0 / corrected_second, 0.0)?.sqrt()?.affine(1.0, self.eps)?;
            let change = first.affine(rate / corrected_first, 0.0)?.div(&root)?;
            let var = &self.variables[name];
            var.set(&(var.as_detached_tensor() - change)?)?;
        }
        Ok(())
    }

    /// Its means, by `first.` and `second.` before the name of their variable.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let named = |(name, [first, second]): (&String, &[Tensor; 2])| {
            [(format!("first.{name}"), first.clone()), (format!("second.{name}"), second.clone())]
        };
        self.moments.iter().flat_map(named).collect()
    }

    /// Goes on after so many steps, from a state of the same variables; `None` where something of it is missing or is of another shape
    /// or type, and then nothing has changed.
    pub fn resume(&mut self, steps: usize, mut state: BTreeMap<String, Tensor>) -> Option<()> {
        let mut moment = |order: &str, name: &String, var: &Var| {
            let found = state.remove(&format!("{order}.{name}"))?;
            (found.shape() == var.shape() && found.dtype() == var.dtype()).then_some(found)
        };
        let both = |(name, var): (&String, &Var)| {
            Some((name.clone(), [moment("first", name, var)?, moment("second", name, var)?]))
        };
        self.moments = self.variables.iter().map(both).collect::<Option<_>>()?;
        self.steps = steps;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Two steps, worked out by hand from the paper's algorithm.
    #[test]
    fn goes_as_it_is_written_down() {
        let var = Var::new(&[1.0f32, -2.0], &Device::Cpu).unwrap();
        let mut adam = Adam::new(BTreeMap::from([("x".to_owned(), var.clone())])).unwrap();
        let (rate, [b1, b2]) = (0.1, adam.betas);
        let (mut x, mut m, mut v) = ([1.0f64, -2.0], [0.0; 2], [0.0; 2]);
        for t in 1..=2 {
            let gradients = var.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            adam.step(&gradients, rate, f64::INFINITY).unwrap();
            for i in 0..2 {
                let g = 2.0 * x[i];
                m[i] = b1 * m[i] + (1.0 - b1) * g;
                v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                x[i] -= rate * (m[i] / (1.0 - b1.powi(t))) / ((v[i] / (1.0 - b2.powi(t))).sqrt() + adam.eps);
            }
        }
        for (got, expected) in var.to_vec1::<f32>().unwrap().into_iter().zip(x) {
            assert!((f64::from(got) - expected).abs() < 1e-6, "{got} and not {expected}");
        }
    }

    #[test]
    fn clips_by_the_norm_over_all() {
        let vars: BTreeMap<_, _> = [("a", 3.0f32), ("b", 4.0)]
            .into_iter()
            .map(|(name, x)| (name.to_owned(), Var::new(x, &Device::Cpu).unwrap()))
            .collect();
        let mut adam = Adam::new(vars.clone()).unwrap();
        let sum = (vars["a"].sqr().unwrap() + vars["b"].sqr().unwrap()).unwrap();
        // Gradients (6, 8) of norm 10 become (0.6, 0.8).
        adam.step(&sum.backward().unwrap(), 0.0, 1.0).unwrap();
        let first = |name: &str| adam.state()[&format!("first.{name}")].to_scalar::<f32>().unwrap();
        assert!((first("a") - 0.06).abs() < 1e-7 && (first("b") - 0.08).abs() < 1e-7);
    }
}
