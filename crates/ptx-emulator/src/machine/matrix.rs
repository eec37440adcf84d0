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
        let out = match ty {
            Type::F16 => product::<false>(warp, a, b, c),
            Type::BF16 => product::<true>(warp, a, b, c),
            _ => return Err((0, FaultKind::Unsupported("a matrix product of this type"))),
        };
        for (reg, out) in d.iter().zip(&out) {
            warp.set(*reg, out, u32::MAX);
        }
        self.profile.matrix_multiply_adds += 16 * 8 * 8 * b.len() as u64;
        Ok(())
    }
}

/// The numbers in the lower and in the upper halves of a register.
#[inline(always)]
fn halves<const BF: bool>(register: &Lanes) -> [[f64; 32]; 2] {
    let number = |bits: u16| f64::from(if BF { bf16_to_f32(bits) } else { f16_to_f32(bits) });
    [0, 16].map(|shift| register.map(|bits| number((bits >> shift) as u16)))
}

/// The registers of d, from those of fragments as PTX lays them out.
fn product<const BF: bool>(warp: &Warp, a: &[Reg], b: &[Reg], c: &[Reg; 4]) -> [Lanes; 4] {
    let depth = 8 * b.len();
    vectorised(|| {
        let mut rows = [[0f64; 16]; 16];
        let mut of_depth = [[0f64; 8]; 16];
        let mut sums = [[0f64; 8]; 16];
        // A lane's row or column, and the first of the two elements side by side in a register.
        let place = |lane: usize| (lane / 4, lane % 4 * 2);
        for (i, &reg) in a.iter().enumerate() {
            for (high, numbers) in halves::<BF>(warp.register(reg)).iter().enumerate() {
                for (lane, &number) in numbers.iter().enumerate() {
                    let (g, t) = place(lane);
                    rows[g + i % 2 * 8][t + i / 2 * 8 + high] = number;
                }
            }
        }
        for (i, &reg) in b.iter().enumerate() {
            for (high, numbers) in halves::<BF>(warp.register(reg)).iter().enumerate() {
                for (lane, &number) in numbers.iter().enumerate() {
                    let (g, t) = place(lane);
                    of_depth[t + i * 8 + high][g] = number;
                }
            }
        }
        for (i, &reg) in c.iter().enumerate() {
            for (lane, &bits) in warp.register(reg).iter().enumerate() {
                let (g, t) = place(lane);
                sums[g + i / 2 * 8][t + i % 2] = f32::from_bits(bits as u32).into();
            }
        }
        for (sums, row) in sums.iter_mut().zip(&rows) {
            for (x, columns) in row.iter().zip(&of_depth[..depth]) {
                for (sum, y) in sums.iter_mut().zip(columns) {
                    *sum += x * y;
                }
            }
        }
        let mut out = [[0; 32]; 4];
        for (i, out) in out.iter_mut().enumerate() {
            for (lane, out) in out.iter_mut().enumerate() {
                let (g, t) = place(lane);
                let sum = sums[g + i / 2 * 8][t + i % 2] as f32;
                *out = u64::from(if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() });
            }
        }
        out
    })
}
