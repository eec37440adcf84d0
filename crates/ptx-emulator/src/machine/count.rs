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
        let mut ascending = true;
        for lane in lanes(active) {
            let sector = addresses[lane] / 32;
            if n == 0 || sectors[n - 1] != sector {
                ascending &= n == 0 || sectors[n - 1] < sector;
                sectors[n] = sector;
                n += 1;
            }
        }
        let mut distinct = n;
        if !ascending {
            let sectors = &mut sectors[..n];
            sectors.sort_unstable();
            distinct = 1 + sectors.windows(2).filter(|w| w[0] != w[1]).count();
        }
        self.instructions += 1;
        self.bytes += bytes * u64::from(active.count_ones());
        self.sectors += distinct as u64;
    }
}

impl Banks {
    /// One instruction of this many bytes a lane.
    pub(crate) fn count(&mut self, addresses: &Lanes, active: u32, bytes: u64) {
        if active == 0 {
            return;
        }
        self.instructions += 1;
        let (together, width) = match bytes {
            16 => (8, 16),
            8 => (16, 8),
            _ => (32, 4),
        };
        for first in (0..32).step_by(together) {
            let part = active & (u32::MAX >> (32 - together)) << first;
            if part != 0 {
                self.least += 1;
                self.passes += passes(lanes(part).map(|lane| addresses[lane]), width);
            }
        }
    }

    /// `ldmatrix`: each matrix of eight rows of 16 bytes is served by itself.
    pub(crate) fn count_rows(&mut self, addresses: &Lanes, matrices: usize) {
        self.instructions += 1;
        for rows in addresses.chunks_exact(8).take(matrices) {
            self.least += 1;
            self.passes += passes(rows.iter().copied(), 16);
        }
    }
}

/// The most distinct words that fall on one bank. The words of one access are side by side, on banks that all accesses of
/// that width, aligned as they are, take together or leave: what falls on the first of them falls on each.
fn passes(addresses: impl Iterator<Item = u64>, width: u64) -> u64 {
    let banks = 128 / width;
    // What was found, chained by bank: the last on each, and of each the one before it there, counted from 1.
    let (mut all, mut before) = ([0u64; 32], [0u8; 32]);
    let (mut last, mut of_bank) = ([0u8; 32], [0u8; 32]);
    let (mut n, mut most) = (0, 0);
    for address in addresses {
        let at = address / width;
        let bank = (at % banks) as usize;
        let mut found = last[bank];
        while found != 0 && all[usize::from(found) - 1] != at {
            found = before[usize::from(found) - 1];
        }
        if found == 0 {
            (all[n], before[n]) = (at, last[bank]);
            n += 1;
            last[bank] = n as u8;
            of_bank[bank] += 1;
            most = most.max(of_bank[bank]);
        }
    }
    most.into()
}
