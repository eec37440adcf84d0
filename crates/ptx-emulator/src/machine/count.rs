//! Sectors of global memory and banks of shared memory.

use crate::arith::Lanes;
use crate::machine::lanes;
use crate::profile::{Banks, Traffic};

impl Traffic {
    /// One instruction: each active lane accesses `bytes`, aligned to their number, so that a sector holds them.
    pub(crate) fn count(&mut self, addresses: &Lanes, active: u32, bytes: u64) {
        if active == 0 {
            return;
        }
        let mut sectors = [0u64; 32];
        let mut n = 0;
        for lane in lanes(active) {
            let sector = addresses[lane] / 32;
            if n == 0 || sectors[n - 1] != sector {
                sectors[n] = sector;
                n += 1;
            }
        }
        let sectors = &mut sectors[..n];
        sectors.sort_unstable();
        let distinct = 1 + sectors.windows(2).filter(|w| w[0] != w[1]).count();
        self.instructions += 1;
        self.bytes += bytes * u64::from(active.count_ones());
        self.sectors += distinct as u64;
    }
}

impl Banks {
    /// One instruction. Words are served 32 a pass, one of each bank; wide accesses go by halves or quarters of a warp.
    pub(crate) fn count(&mut self, addresses: &Lanes, active: u32, bytes: u64) {
        if active == 0 {
            return;
        }
        self.instructions += 1;
        let (together, words) = match bytes {
            16 => (8, 4),
            8 => (16, 2),
            _ => (32, 1),
        };
        for phase in 0..32 / together {
            let part = active & (u32::MAX >> (32 - together)) << (phase * together);
            if part != 0 {
                self.least += 1;
                self.passes += passes(lanes(part).map(|lane| addresses[lane]), words);
            }
        }
    }

    /// `ldmatrix`: each matrix of eight rows of 16 bytes is a pass of its own.
    pub(crate) fn count_rows(&mut self, addresses: &Lanes, matrices: usize) {
        self.instructions += 1;
        for matrix in 0..matrices {
            self.least += 1;
            self.passes += passes(addresses[8 * matrix..8 * matrix + 8].iter().copied(), 4);
        }
    }
}

/// The most distinct words that fall on one bank.
fn passes(addresses: impl Iterator<Item = u64>, words: u64) -> u64 {
    let mut all = [0u64; 32];
    let mut n = 0;
    for address in addresses {
        for word in 0..words {
            all[n] = address / 4 + word;
            n += 1;
        }
    }
    let all = &mut all[..n];
    all.sort_unstable();
    let mut banks = [0u64; 32];
    let mut last = None;
    for &word in all.iter() {
        if last != Some(word) {
            banks[(word % 32) as usize] += 1;
        }
        last = Some(word);
    }
    banks.into_iter().max().unwrap_or(0)
}
