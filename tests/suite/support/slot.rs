use lightspan::reference::Estimate;
use lightspan::{DType, bf16, f16};
use proptest::test_runner::TestCaseError;
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::support::{Memory, Values};

/// A place for a tensor in memory that holds other things as well: rows of `width` numbers, `stride` apart, from element
/// `offset` on.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub offset: usize,
    pub stride: usize,
    pub width: usize,
}

impl Slot {
    /// An offset, now and then a long one, and a gap; both are multiples of `step`.
    pub fn draw(rng: &mut SmallRng, step: usize, width: usize) -> Self {
        let end = if rng.random() { 8 } else { 400 };
        let (offset, gap) = (rng.random_range(0..end) * step, rng.random_range(0..4) * step);
        Slot { offset, stride: width + gap, width }
    }

    /// `values` in their place, with NaN around them and between their rows.
    pub fn hold(&self, values: &Values) -> Memory {
        let nan = |count| std::iter::repeat_n(f32::NAN, count);
        let gap = self.stride - self.width;
        let rows =
            values.data.chunks(self.width).flat_map(|row| row.iter().map(|&x| x as f32).chain(nan(gap)));
        Memory::new(nan(self.offset).chain(rows).chain(nan(3)), values.dtype)
    }

    /// Numbers of these bits in their place, with others around them and between their rows.
    pub fn hold_bits(&self, bits: &[u32], dtype: DType) -> Memory {
        let others = |count| std::iter::repeat_n(0x7fff, count);
        let gap = self.stride - self.width;
        let rows = bits.chunks(self.width).flat_map(|row| row.iter().copied().chain(others(gap)));
        Memory::of_bits(others(self.offset).chain(rows).chain(others(3)), dtype)
    }

    /// The bits of the numbers of so many rows.
    pub fn bits(&self, bytes: &[u8], rows: usize, dtype: DType) -> Vec<u32> {
        let bits = |at: usize| match dtype.size() {
            4 => bytemuck::pod_read_unaligned::<u32>(&bytes[4 * at..][..4]),
            _ => bytemuck::pod_read_unaligned::<u16>(&bytes[2 * at..][..2]).into(),
        };
        let row = |row: usize| (0..self.width).map(move |column| self.offset + row * self.stride + column);
        (0..rows).flat_map(row).map(bits).collect()
    }

    /// Fails unless every number has the bits that are expected, and everything around the rows those that it had.
    pub fn check_bits(
        &self,
        expected: &[u32],
        dtype: DType,
        before: &[u8],
        after: &[u8],
    ) -> Result<(), TestCaseError> {
        let size = dtype.size();
        let mut all = before.to_vec();
        for (i, bits) in expected.iter().enumerate() {
            let (row, column) = (i / self.width, i % self.width);
            let at = (self.offset + row * self.stride + column) * size;
            all[at..at + size].copy_from_slice(&bits.to_le_bytes()[..size]);
        }
        let other = all.iter().zip(after).position(|(expected, got)| expected != got);
        proptest::prop_assert!(other.is_none(), "other bits at byte {other:?}, rows from {self:?}");
        Ok(())
    }

    /// Bytes of any bits, with room for so many rows.
    pub fn noise(&self, rng: &mut SmallRng, rows: usize, dtype: DType) -> Vec<u8> {
        let size = ((self.offset + rows * self.stride + 3) * dtype.size()).next_multiple_of(4);
        (0..size).map(|_| rng.random()).collect()
    }

    /// Fails unless every number is within its bound, and everything around the rows has the bits that it had.
    pub fn check(
        &self,
        expected: &[Estimate],
        dtype: DType,
        before: &[u8],
        after: &[u8],
    ) -> Result<(), TestCaseError> {
        let size = dtype.size();
        let mut untouched = before.to_vec();
        for (i, estimate) in expected.iter().enumerate() {
            let (row, column) = (i / self.width, i % self.width);
            let at = (self.offset + row * self.stride + column) * size;
            let got = decode(&after[at..at + size], dtype);
            if !estimate.admits(got, dtype) {
                let (value, bound) = (estimate.value, estimate.bound);
                return Err(TestCaseError::fail(format!(
                    "number {column} of row {row}: got {got:e}, expected {value:e} within {bound:e}"
                )));
            }
            untouched[at..at + size].copy_from_slice(&after[at..at + size]);
        }
        let changed = untouched.iter().zip(after).position(|(before, after)| before != after);
        proptest::prop_assert!(changed.is_none(), "what is around the rows was written, at byte {changed:?}");
        Ok(())
    }
}

/// The number of these bytes.
fn decode(bytes: &[u8], dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(bytemuck::pod_read_unaligned::<f32>(bytes)),
        DType::F16 => bytemuck::pod_read_unaligned::<f16>(bytes).to_f64(),
        DType::BF16 => bytemuck::pod_read_unaligned::<bf16>(bytes).to_f64(),
        _ => panic!("no number of type {dtype}"),
    }
}
