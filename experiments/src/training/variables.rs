use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::TAU;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Error, Result, Shape, Tensor, Var};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rand::{Rng, RngExt};

use crate::random::random;

/// The parameters of a model, by name. What they begin with depends on a seed and their names alone, on every device and in
/// whatever order they are asked for; candle's own beginnings on the CPU cannot be seeded.
#[derive(Clone)]
pub struct Variables {
    seed: u64,
    device: Device,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    all: BTreeMap<String, Var>,
    frozen: BTreeSet<String>,
}

impl Held {
    /// A variable as a model has it: a constant where it is frozen.
    fn tensor(&self, name: &str, var: &Var) -> Tensor {
        if self.frozen.contains(name) { var.as_detached_tensor() } else { var.as_tensor().clone() }
    }
}

impl Variables {
    /// None yet: a model asks for them by [`builder`](Self::builder).
    pub fn new(seed: u64, device: &Device) -> Self {
        Variables { seed, device: device.clone(), held: Arc::default() }
    }

    /// What models take their parameters from, in f32.
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, self.device.clone())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Whoever panicked has not left a map half changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where they are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All of them, by name.
    pub fn all(&self) -> BTreeMap<String, Var> {
        self.held().all.clone()
    }

    /// Those that training changes.
    pub fn trained(&self) -> BTreeMap<String, Var> {
        let held = self.held();
        let trained = held.all.iter().filter(|(name, _)| !held.frozen.contains(*name));
        trained.map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// How many numbers they have.
    pub fn count(&self) -> usize {
        self.held().all.values().map(|var| var.elem_count()).sum()
    }

    /// Copies with the same numbers, none of them frozen. What is not among them begins by this seed.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn copied(&self, seed: u64) -> Result<Self> {
        let copies = Variables::new(seed, &self.device);
        for (name, var) in self.all() {
            copies.held().all.insert(name, Var::from_tensor(&var.copy()?)?);
        }
        Ok(copies)
    }

    /// Without those whose names begin so.
    pub fn without(self, beginning: &str) -> Self {
        self.held().all.retain(|name, _| !name.starts_with(beginning));
        self
    }

    /// Keeps those as they are whose names are chosen. A model that is built afterwards gets them as constants, so that no gradient
    /// is computed for them.
    pub fn freeze(&self, chosen: impl Fn(&str) -> bool) {
        let mut held = self.held();
        held.frozen = held.all.keys().filter(|name| chosen(name)).cloned().collect();
    }

    /// The bits of those that are frozen.
    ///
    /// # Errors
    ///
    /// As candle has them.
    pub fn frozen_bits(&self) -> Result<BTreeMap<String, Vec<u32>>> {
        let held = self.held();
        let frozen = held.all.iter().filter(|(name, _)| held.frozen.contains(*name));
        let bits = |(name, var): (&String, &Var)| {
            let numbers = var.flatten_all()?.to_vec1::<f32>()?;
            Ok((name.clone(), numbers.into_iter().map(f32::to_bits).collect()))
        };
        frozen.map(bits).collect()
    }

    fn drawn(&self, name: &str, shape: &Shape, init: Init, device: &Device) -> Result<Var> {
        let mut random = random(self.seed, name, 0);
        let mut number = || match init {
            Init::Const(value) => value,
            Init::Uniform { lo, up } => uniform(&mut random, lo, up),
            Init::Randn { mean, stdev } => mean + normal(&mut random, stdev),
            Init::Kaiming { dist, fan, non_linearity } => {
                let stdev = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
                let limit = 3f64.sqrt() * stdev;
                match dist {
                    NormalOrUniform::Normal => normal(&mut random, stdev),
                    NormalOrUniform::Uniform => uniform(&mut random, -limit, limit),
                }
            }
        };
        let numbers: Vec<f32> = (0..shape.elem_count()).map(|_| number() as f32).collect();
        Var::from_vec(numbers, shape, device)
    }
}

fn uniform(random: &mut impl Rng, lo: f64, up: f64) -> f64 {
    lo + (up - lo) * random.random::<f64>()
}

/// With a mean of zero, by Box and Muller, of a number above zero.
fn normal(random: &mut impl Rng, stdev: f64) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(random, 0.0, 1.0)).ln()).sqrt();
    stdev * radius * uniform(random, 0.0, TAU).cos()
}

impl SimpleBackend for Variables {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        if dtype != DType::F32 {
            return Err(Error::UnexpectedDType {
                msg: "parameters are trained in f32",
                expected: DType::F32,
                got: dtype,
            });
        }
        let mut held = self.held();
        let var = match held.all.get(name) {
            Some(var) if *var.shape() == shape => var.clone(),
            Some(var) => {
                let found = var.shape().clone();
                return Err(Error::Msg(format!("{name} has shape {found:?}, and not {shape:?}")));
            }
            None => {
                let var = self.drawn(name, &shape, init, device)?;
                held.all.insert(name.to_owned(), var.clone());
                var
            }
        };
        Ok(held.tensor(name, &var))
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        let held = self.held();
        let missing = || Error::CannotFindTensor { path: name.to_owned() };
        held.all.get(name).map(|var| held.tensor(name, var)).ok_or_else(missing)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.held().all.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn beginnings_depend_on_seed_and_name_alone() {
        let normal = Init::Randn { mean: 1.0, stdev: 0.5 };
        let draw = |seed: u64, names: [&str; 2]| {
            let variables = Variables::new(seed, &Device::Cpu);
            for name in names {
                variables.builder().get_with_hints((40, 50), name, normal).unwrap();
            }
            variables.all()
        };
        let (first, second) = (draw(3, ["a", "b"]), draw(3, ["b", "a"]));
        for name in ["a", "b"] {
            assert_eq!(numbers(&first[name]), numbers(&second[name]));
        }
        assert_ne!(numbers(&first["a"]), numbers(&first["b"]));
        assert_ne!(numbers(&first["a"]), numbers(&draw(4, ["a", "b"])["a"]));
        // 2000 numbers: their mean is within five of its deviations, and their deviation within five of its own.
        let found = numbers(&first["a"]);
        let mean = found.iter().sum::<f32>() / 2000.0;
        let deviation = (found.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 2000.0).sqrt();
        assert!((mean - 1.0).abs() < 5.0 * 0.5 / 2000f32.sqrt(), "{mean}");
        assert!((deviation - 0.5).abs() < 5.0 * 0.5 / 4000f32.sqrt(), "{deviation}");
    }

    #[test]
    fn what_is_frozen_gets_no_gradient() {
        let variables = Variables::new(0, &Device::Cpu);
        let build = || {
            let get = |name| variables.builder().get_with_hints(3, name, Init::Const(2.0)).unwrap();
            (get("kept") * get("tuned")).unwrap().sum_all().unwrap()
        };
        build();
        variables.freeze(|name| name == "kept");
        let gradients = build().backward().unwrap();
        let all = variables.all();
        assert!(gradients.get(&all["kept"]).is_none() && gradients.get(&all["tuned"]).is_some());
        assert_eq!(variables.trained().keys().collect::<Vec<_>>(), ["tuned"]);
        assert_eq!(variables.frozen_bits().unwrap()["kept"], [2f32.to_bits(); 3]);
        assert_eq!(variables.copied(1).unwrap().trained().len(), 2);
        // A change of one bit is seen.
        let next = f32::from_bits(2f32.to_bits() + 1);
        all["kept"].set(&Tensor::new(&[2.0, 2.0, next], &Device::Cpu).unwrap()).unwrap();
        assert_ne!(variables.frozen_bits().unwrap()["kept"], [2f32.to_bits(); 3]);
    }

    #[test]
    fn another_shape_is_an_error() {
        let builder = Variables::new(0, &Device::Cpu).builder();
        builder.get(3, "weight").unwrap();
        assert!(builder.get(4, "weight").unwrap_err().to_string().contains("weight has shape [3]"));
    }
}
