//! Parameters by their names, from a file, from memory, or drawn.

mod drawn;
mod file;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::rc::Rc;

use drawn::Drawn;
use file::File;

use crate::nn::Parameter;
use crate::{DType, Device, Error, Result, Tensor};

/// How weights are loaded.
#[derive(Clone, Copy, Default)]
pub struct LoadOptions<'a> {
    /// The type that all parameters get, whatever they are stored in: f32 if it is not said.
    pub dtype: Option<DType>,
    /// Whether weights that the model has no place for are passed over; an error by default, as they most often mean that the
    /// configuration is another model's.
    pub allow_surplus: bool,
    /// Told of each parameter that is there.
    pub progress: Option<&'a dyn Fn(LoadProgress<'_>)>,
}

impl fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadOptions { dtype, allow_surplus, progress } = self;
        f.debug_struct("LoadOptions")
            .field("dtype", dtype)
            .field("allow_surplus", allow_surplus)
            .field("progress", &progress.is_some())
            .finish()
    }
}

/// How far loading has come.
#[derive(Clone, Copy, Debug)]
pub struct LoadProgress<'a> {
    /// The parameter that was loaded last.
    pub name: &'a str,
    /// Its shape, as it is stored.
    pub shape: &'a [usize],
    /// Bytes of the file that have been read.
    pub bytes: u64,
    /// Bytes of all its parameters; 0 where they are drawn.
    pub total: u64,
}

/// The parameters of a model, by name: where models take theirs from.
///
/// Cheap to clone. [`Weights::at`] goes down into the names.
#[derive(Clone)]
pub struct Weights<'a> {
    shared: Rc<Shared<'a>>,
    prefix: String,
}

struct Shared<'a> {
    source: Source,
    device: Device,
    options: LoadOptions<'a>,
    taken: RefCell<BTreeSet<String>>,
    read: RefCell<u64>,
}

enum Source {
    File(File),
    Drawn(Drawn),
}

impl<'a> Weights<'a> {
    /// The parameters of a `.safetensors` file. Its header is read; a parameter is when a model takes it.
    ///
    /// # Errors
    ///
    /// [`Error::File`] for what cannot be read, or is not a whole file of this format.
    pub fn open(path: impl AsRef<Path>, device: &Device, options: LoadOptions<'a>) -> Result<Self> {
        Ok(Weights::of(Source::File(File::open(path.as_ref())?), device, options))
    }

    /// The same of a file in memory.
    ///
    /// # Errors
    ///
    /// As [`Weights::open`].
    pub fn from_bytes(bytes: Vec<u8>, device: &Device, options: LoadOptions<'a>) -> Result<Self> {
        Ok(Weights::of(Source::File(File::in_memory(bytes)?), device, options))
    }

    /// Parameters of every name and shape, drawn: for benchmarks, and as a beginning. The same seed gives the same numbers on
    /// every device.
    ///
    /// Vectors called `weight` are ones (gains of norms), other vectors zeros (biases), and all else is uniform with a variance of
    /// 1 over the last size, so that what layers give is of the size of what they get.
    pub fn drawn(seed: u64, device: &Device, options: LoadOptions<'a>) -> Self {
        Weights::of(Source::Drawn(Drawn::new(seed)), device, options)
    }

    fn of(source: Source, device: &Device, options: LoadOptions<'a>) -> Self {
        let (taken, read, device) = (RefCell::default(), RefCell::default(), device.clone());
        Weights { shared: Rc::new(Shared { source, device, options, taken, read }), prefix: String::new() }
    }

    /// The parameters whose names begin with that of this one, `name`, and a dot.
    pub fn at(&self, name: impl fmt::Display) -> Self {
        Weights { shared: self.shared.clone(), prefix: format!("{}{name}.", self.prefix) }
    }

    /// Where parameters go.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// The type that parameters get.
    pub fn dtype(&self) -> DType {
        self.shared.options.dtype.unwrap_or(DType::F32)
    }

    /// Whether a parameter of that name is there. Of those that are drawn none is before it is asked for.
    pub fn has(&self, name: &str) -> bool {
        match &self.shared.source {
            Source::File(file) => file.has(&self.full(name)),
            Source::Drawn(_) => false,
        }
    }

    /// The first of these names that is there; the first of all, where none is.
    pub fn first_of<'n>(&self, names: &[&'n str]) -> &'n str {
        names.iter().find(|name| self.has(name)).or(names.first()).copied().unwrap_or("")
    }

    /// A parameter.
    ///
    /// # Errors
    ///
    /// [`Error::MissingWeight`], [`Error::WeightShape`], [`Error::WeightType`] for types that are not floats of 32 or 16 bits,
    /// [`Error::File`] where the file cannot be read any more, and as [`Tensor::from_f32`].
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Parameter> {
        self.get_as(name, shape, shape)
    }

    /// A parameter that may be missing.
    ///
    /// # Errors
    ///
    /// As [`Weights::get`], but for [`Error::MissingWeight`].
    pub fn optional(&self, name: &str, shape: &[usize]) -> Result<Option<Parameter>> {
        if self.has(name) { self.get(name, shape).map(Some) } else { Ok(None) }
    }

    /// A parameter that has another shape here than where it is stored; the numbers stay in order.
    ///
    /// # Errors
    ///
    /// As [`Weights::get`].
    pub fn get_as(&self, name: &str, stored: &[usize], shape: &[usize]) -> Result<Parameter> {
        self.get_with(name, stored, shape, |values| values)
    }

    /// A parameter that is stored in another way: `convert` makes numbers of shape `shape` from those that are stored.
    ///
    /// # Errors
    ///
    /// As [`Weights::get`].
    pub fn get_with(
        &self,
        name: &str,
        stored: &[usize],
        shape: &[usize],
        convert: impl FnOnce(Vec<f32>) -> Vec<f32>,
    ) -> Result<Parameter> {
        let values = self.values(name, stored)?;
        Tensor::from_f32(&convert(values), shape, self.dtype(), self.device()).map(Parameter::new)
    }

    /// The numbers of a parameter.
    ///
    /// # Errors
    ///
    /// As [`Weights::get`].
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Shared { source, options, taken, read, .. } = &*self.shared;
        let full = self.full(name);
        let (values, total) = match source {
            Source::File(file) => {
                let (stored, bytes) = file.values(&full, shape)?;
                if taken.borrow_mut().insert(full.clone()) {
                    *read.borrow_mut() += bytes;
                }
                (stored, file.total())
            }
            Source::Drawn(drawn) => (drawn.values(&full, shape), 0),
        };
        if let Some(progress) = options.progress {
            progress(LoadProgress { name: &full, shape, bytes: *read.borrow(), total });
        }
        Ok(values)
    }

    /// Passes over what is stored under a name, as buffers that are no parameters.
    pub fn pass_over(&self, name: &str) {
        self.shared.taken.borrow_mut().insert(self.full(name));
    }

    /// Another name of a parameter, which `key` of a configuration says that it is: stored or not, it is no parameter.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where it is stored with other numbers, and as [`Weights::get`].
    pub fn tied(&self, name: &str, to: (&Self, &str), shape: &[usize], key: &'static str) -> Result<()> {
        if !self.has(name) || self.values(name, shape)? == to.0.values(to.1, shape)? {
            return Ok(());
        }
        let (name, to) = (self.full(name), to.0.full(to.1));
        let expected = format!("false for weights whose {name} is not {to}");
        Err(Error::Config { key, expected, got: true.to_string() })
    }

    /// An error where something is left whose name begins as this one's does, unless that is allowed.
    ///
    /// # Errors
    ///
    /// [`Error::SurplusWeights`].
    pub fn finish(&self) -> Result<()> {
        let Shared { source: Source::File(file), options, taken, .. } = &*self.shared else { return Ok(()) };
        let taken = taken.borrow();
        let mut names = file.names();
        names.retain(|name| name.starts_with(&self.prefix) && !taken.contains(name));
        if names.is_empty() || options.allow_surplus { Ok(()) } else { Err(Error::SurplusWeights { names }) }
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

impl fmt::Debug for Weights<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.shared.source {
            Source::File(file) => file.to_string(),
            Source::Drawn(_) => "drawn".to_owned(),
        };
        write!(f, "Weights {source} at {:?} to {} on {}", self.prefix, self.dtype(), self.device())
    }
}
