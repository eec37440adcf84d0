//! `ldmatrix` and `mma.sync`.
//!
//! The model of `mma.sync` with f32 sums: products are exact, the products of one instruction and the number added to
//! are summed in f64, in order of depth, and the sum is rounded once to f32. Devices align and cut the products in ways
//! that NVIDIA does not document; results differ from theirs by a few units of the last place of the largest term.

use crate::arith::Lanes;
use crate::arith::quick::{bf16_to_f32, f16_to_f32};
use crate::arith::vectorised;
use crate::fault::{FaultKind, Space};
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
        counter: usize,
        to: &[Reg],
        at: Address,
        transposed: bool,
    ) -> Outcome<()> {
        let addresses = warp.register(at.base).map(|a| a.wrapping_add_signed(at.offset));
        for (matrix, &to) in to.iter().enumerate() {
            let mut rows = [[0u32; 4]; 8];
            for (row, elements) in rows.iter_mut().enumerate() {
                let lane = (8 * matrix + row) as u32;
                let address = addresses[lane as usize];
                checked(Space::Shared, address, 16).map_err(|e| (lane, e))?;
                self.shared.load(address, 16, warp.who(lane), elements).map_err(|e| (lane, e))?;
            }
            let element =
                |row: usize, column: usize| u64::from(rows[row][column / 2] >> (column % 2 * 16) & 0xffff);
            let out: Lanes = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4, lane % 4 * 2);
                let at = |c: usize| if transposed { element(c, row) } else { element(row, c) };
                at(column) | at(column + 1) << 16
            });
            warp.set(to, &out, u32::MAX);
        }
        self.profile.at(counter).shared_loads.count_rows(&addresses, to.len());
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
        let number = match ty {
            Type::F16 => f16_to_f32,
            Type::BF16 => bf16_to_f32,
            _ => return Err((0, FaultKind::Unsupported("a matrix product of this type"))),
        };
        let mut rows = [[0f64; 16]; 16];
        let mut of_depth = [[0f64; 8]; 16];
        let mut sums = [[0f64; 8]; 16];
        let halves = |bits: u64| [number(bits as u16), number((bits >> 16) as u16)].map(f64::from);
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4 * 2);
            for (i, &reg) in a.iter().enumerate() {
                let to = &mut rows[g + i % 2 * 8][t + i / 2 * 8..][..2];
                to.copy_from_slice(&halves(warp.register(reg)[lane]));
            }
            for (i, &reg) in b.iter().enumerate() {
                let [low, high] = halves(warp.register(reg)[lane]);
                (of_depth[t + i * 8][g], of_depth[t + i * 8 + 1][g]) = (low, high);
            }
            for (i, &reg) in c.iter().enumerate() {
                sums[g + i / 2 * 8][t + i % 2] = f32::from_bits(warp.register(reg)[lane] as u32).into();
            }
        }
        vectorised(|| {
            for (sums, row) in sums.iter_mut().zip(&rows) {
                for (x, columns) in row.iter().zip(&of_depth[..depth]) {
                    for (sum, y) in sums.iter_mut().zip(columns) {
                        *sum += x * y;
                    }
                }
            }
        });
        let mut out = [[0u64; 32]; 4];
        for lane in 0..32 {
            for (i, out) in out.iter_mut().enumerate() {
                let sum = sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] as f32;
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
