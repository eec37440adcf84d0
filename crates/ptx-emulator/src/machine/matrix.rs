//! `ldmatrix` and `mma.sync`.
//!
//! The model of `mma.sync` with f32 sums: products are exact, the products of one instruction and the number added to
//! are summed in f64, in order of depth, and the sum is rounded once to f32. Devices align and cut the products in ways
//! that NVIDIA does not document; results differ from theirs by a few units of the last place of the largest term.

use crate::arith::Lanes;
use crate::arith::convert::format;
use crate::arith::round::{F64, Rounding, convert};
use crate::fault::FaultKind;
use crate::machine::Outcome;
use crate::machine::access::checked;
use crate::machine::block::Block;
use crate::machine::warp::Warp;
use crate::program::{Address, Reg};
use crate::types::Type;

impl Block<'_> {
    /// Lanes 8i to 8i+7 give the rows of matrix i; each lane receives two elements of each.
    pub(crate) fn matrix_load(
        &mut self,
        warp: &mut Warp,
        to: &[Reg],
        at: Address,
        transposed: bool,
    ) -> Outcome<()> {
        let addresses = warp.register(at.base).map(|a| a.wrapping_add_signed(at.offset));
        for (matrix, &to) in to.iter().enumerate() {
            let mut elements = [[0u64; 8]; 8];
            for (row, elements) in elements.iter_mut().enumerate() {
                let lane = (8 * matrix + row) as u32;
                let address = addresses[lane as usize];
                checked(crate::fault::Space::Shared, address, 16).map_err(|e| (lane, e))?;
                for (column, element) in elements.iter_mut().enumerate() {
                    let from = address + 2 * column as u64;
                    *element = self.shared.load(from, 2, warp.who(lane)).map_err(|e| (lane, e))?;
                }
            }
            let out: Lanes = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4, lane % 4 * 2);
                let at = |c: usize| if transposed { elements[c][row] } else { elements[row][c] };
                at(column) | at(column + 1) << 16
            });
            warp.set(to, &out, u32::MAX);
        }
        self.profile.shared_loads.count_rows(&addresses, to.len());
        Ok(())
    }

    /// d = a b + c for 16 rows, 8 columns and this depth.
    pub(crate) fn matrix_multiply(
        &mut self,
        warp: &mut Warp,
        ty: Type,
        d: &[Reg; 4],
        a: &[Reg],
        b: &[Reg],
        c: &[Reg; 4],
    ) -> Outcome<()> {
        let depth = 8 * b.len();
        let Some(format) = format(ty) else {
            return Err((0, FaultKind::Unsupported("a matrix product of this type")));
        };
        let number = |bits: u64, high: usize| {
            f64::from_bits(convert(bits >> (16 * high) & 0xffff, format, F64, Rounding::Nearest))
        };
        let mut rows = [[0f64; 16]; 16];
        let mut columns = [[0f64; 16]; 8];
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4 * 2);
            for (i, &reg) in a.iter().enumerate() {
                for high in 0..2 {
                    rows[g + i % 2 * 8][t + i / 2 * 8 + high] = number(warp.register(reg)[lane], high);
                }
            }
            for (i, &reg) in b.iter().enumerate() {
                for high in 0..2 {
                    columns[g][t + i * 8 + high] = number(warp.register(reg)[lane], high);
                }
            }
        }
        let mut out = [[0u64; 32]; 4];
        for lane in 0..32 {
            for (i, out) in out.iter_mut().enumerate() {
                let (row, column) = (&rows[lane / 4 + i / 2 * 8], &columns[lane % 4 * 2 + i % 2]);
                let start = f64::from(f32::from_bits(warp.register(c[i])[lane] as u32));
                let sum =
                    row[..depth].iter().zip(&column[..depth]).fold(start, |sum, (x, y)| sum + x * y) as f32;
                out[lane] = u64::from(if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() });
            }
        }
        for (reg, out) in d.iter().zip(&out) {
            warp.set(*reg, out, u32::MAX);
        }
        self.profile.matrix_multiply_adds += 16 * 8 * depth as u64;
        Ok(())
    }
}
