use lightspan::reference::Estimate;
use lightspan::{DType, Device, Result, Sequences, Tensor};
use proptest::test_runner::TestCaseError;
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

    /// Ids below `bound`.
    pub fn ids(&mut self, count: usize, bound: u32) -> Vec<u32> {
        (0..count).map(|_| self.0.random_range(0..bound)).collect()
    }

    /// Numbers for tokens, with NaN in the padding: nothing may read it.
    pub fn tokens(&mut self, sequences: &Sequences, channels: usize, dtype: DType, scale: f32) -> Values {
        let mut values = self.draw(&sequences.shape().tensor(channels), dtype, scale);
        for sequence in sequences.as_slice() {
            let padding = sequence.first + sequence.length;
            values.data[padding * channels..(padding + sequence.padding) * channels].fill(f64::NAN);
        }
        values
    }

    /// Tokens from before the call, with NaN where a sequence had none.
    pub fn history(&mut self, sequences: &Sequences, shape: [usize; 3], dtype: DType, scale: f32) -> Values {
        let mut values = self.draw(&shape, dtype, scale);
        let [_, reach, channels] = shape;
        for (s, sequence) in sequences.as_slice().iter().enumerate() {
            let missing = reach.saturating_sub(sequence.past);
            values.data[s * reach * channels..(s * reach + missing) * channels].fill(f64::NAN);
        }
        values
    }
}

/// Numbers that their type holds exactly, for the reference and for a device.
#[derive(Clone, Debug)]
pub struct Values {
    pub data: Vec<f64>,
    pub shape: Vec<usize>,
    pub dtype: DType,
}

impl Values {
    pub fn on(&self, device: &Device) -> Tensor {
        let data: Vec<f32> = self.data.iter().map(|&x| x as f32).collect();
        Tensor::from_f32(&data, &self.shape, self.dtype, device).unwrap()
    }
}

/// Fails unless every number of `got` is within the bound of the reference, and every number in the padding zero.
pub fn assert_admitted(expected: &[Estimate], got: &Tensor) -> Result<(), TestCaseError> {
    let values = got.to_f32().unwrap();
    assert_eq!(values.len(), expected.len(), "numbers of the output");
    for (i, (estimate, &value)) in expected.iter().zip(&values).enumerate() {
        if !estimate.admits(f64::from(value), got.dtype()) {
            let off = (f64::from(value) - estimate.value).abs() / estimate.bound;
            return Err(TestCaseError::fail(format!(
                "number {i} of {:?}: got {value:e}, expected {:e} within {:e}: {off:.2} times the bound",
                got.shape(),
                estimate.value,
                estimate.bound
            )));
        }
    }
    Ok(())
}

/// Whether two tensors hold the same bits.
pub fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let bits =
        |tensor: &Tensor| -> Vec<u32> { tensor.to_f32().unwrap().into_iter().map(f32::to_bits).collect() };
    a.shape() == b.shape() && a.dtype() == b.dtype() && bits(a) == bits(b)
}

/// What a call returned, once the form of it that writes into a tensor gave the same bits.
///
/// That tensor holds NaN before, so that nothing can be left as it was: not the padding, and not an output that no tap
/// reaches.
pub fn overwritten(returned: Tensor, into: impl FnOnce(&mut Tensor) -> Result<()>) -> Tensor {
    let stale = vec![f32::NAN; returned.len()];
    let mut y = Tensor::from_f32(&stale, returned.shape(), returned.dtype(), returned.device()).unwrap();
    into(&mut y).unwrap();
    assert!(same_bits(&returned, &y), "the form that writes into {y:?} gives other numbers");
    returned
}

/// Fails unless one row of `got`, of as many numbers as are expected, is within the bound of the reference.
pub fn assert_row_admitted(expected: &[Estimate], got: &Tensor, row: usize) {
    let values = got.to_f32().unwrap();
    for (c, (estimate, &value)) in expected.iter().zip(&values[row * expected.len()..]).enumerate() {
        assert!(
            estimate.admits(f64::from(value), got.dtype()),
            "channel {c} of row {row}: got {value:e}, expected {:e} within {:e}",
            estimate.value,
            estimate.bound
        );
    }
}
