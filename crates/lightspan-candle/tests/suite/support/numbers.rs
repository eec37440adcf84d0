use candle_core::{D, Device, Result, Tensor};
use lightspan::{DType, Sequences};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A source of numbers, the same for the same seed.
pub struct Numbers(SmallRng);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Numbers(SmallRng::seed_from_u64(seed))
    }

    /// Numbers of type `dtype` between -`scale` and `scale`.
    pub fn draw(&mut self, shape: &[usize], dtype: DType, scale: f32) -> Values {
        let count = shape.iter().product();
        let data = (0..count).map(|_| dtype.round(f64::from(self.0.random_range(-scale..scale)))).collect();
        Values { data, shape: shape.to_vec(), dtype }
    }

    /// Numbers for tokens, with NaN in the padding: nothing may read it.
    pub fn tokens(&mut self, sequences: &Sequences, sizes: &[usize], dtype: DType, scale: f32) -> Values {
        let channels: usize = sizes.iter().product();
        let mut shape = sequences.shape().tensor(channels);
        shape.pop();
        shape.extend(sizes);
        let mut values = self.draw(&shape, dtype, scale);
        for sequence in sequences.as_slice() {
            let padding = sequence.first + sequence.length;
            values.data[padding * channels..(padding + sequence.padding) * channels].fill(f64::NAN);
        }
        values
    }

    /// How a tensor is to lie.
    pub fn place(&mut self) -> Place {
        match self.0.random_range(0..4) {
            0 => Place::Alone,
            1 => Place::Columns { before: self.0.random_range(0..4), after: self.0.random_range(0..4) },
            2 => Place::Rows { before: self.0.random_range(0..3), after: self.0.random_range(0..3) },
            _ => Place::Transposed,
        }
    }
}

/// Numbers that their type holds exactly.
#[derive(Clone, Debug)]
pub struct Values {
    pub data: Vec<f64>,
    pub shape: Vec<usize>,
    pub dtype: DType,
}

impl Values {
    /// As a tensor of their own type.
    pub fn tensor(&self) -> Result<Tensor> {
        self.exact()?.to_dtype(candle(self.dtype))
    }

    /// The same numbers in f64.
    pub fn exact(&self) -> Result<Tensor> {
        Tensor::from_slice(&self.data, &self.shape[..], &Device::Cpu)
    }

    /// As a tensor of lightspan's.
    pub fn lightspan(&self) -> lightspan::Tensor {
        let data: Vec<f32> = self.data.iter().map(|&x| x as f32).collect();
        lightspan::Tensor::from_f32(&data, &self.shape, self.dtype, &lightspan::Device::cpu()).unwrap()
    }
}

/// How a tensor lies in memory: the whole of another, or a part of it.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Alone,
    /// Some of the last dimension of a wider one: as values beside their gates, or q inside of q, k and v.
    Columns {
        before: usize,
        after: usize,
    },
    /// Some of the first dimension.
    Rows {
        before: usize,
        after: usize,
    },
    /// With the last two dimensions exchanged.
    Transposed,
}

impl Place {
    /// The tensor that a part of is to be, with numbers around it that nothing may read.
    pub fn around(self, tensor: &Tensor) -> Result<Tensor> {
        let beside = |dim: usize, before: usize, after: usize| {
            let noise = |count: usize| {
                let mut dims = tensor.dims().to_vec();
                dims[dim] = count;
                Tensor::full(f32::NAN, dims, tensor.device())?.to_dtype(tensor.dtype())
            };
            let mut parts = vec![tensor.clone()];
            if before > 0 {
                parts.insert(0, noise(before)?);
            }
            if after > 0 {
                parts.push(noise(after)?);
            }
            Tensor::cat(&parts, dim)?.contiguous()
        };
        match self {
            Place::Columns { before, after } => beside(tensor.rank() - 1, before, after),
            Place::Rows { before, after } => beside(0, before, after),
            Place::Transposed if tensor.rank() > 1 => tensor.t()?.contiguous(),
            Place::Alone | Place::Transposed => Ok(tensor.clone()),
        }
    }

    /// The part of what is around it.
    pub fn part(self, around: &Tensor) -> Result<Tensor> {
        match self {
            Place::Columns { before, after } => {
                around.narrow(D::Minus1, before, around.dim(D::Minus1)? - before - after)
            }
            Place::Rows { before, after } => around.narrow(0, before, around.dim(0)? - before - after),
            Place::Transposed if around.rank() > 1 => around.t(),
            Place::Alone | Place::Transposed => Ok(around.clone()),
        }
    }
}

/// candle's name for a type.
pub fn candle(dtype: DType) -> candle_core::DType {
    match dtype {
        DType::F16 => candle_core::DType::F16,
        DType::BF16 => candle_core::DType::BF16,
        _ => candle_core::DType::F32,
    }
}

/// All numbers of a tensor.
pub fn to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_device(&Device::Cpu)?.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1()
}
