use std::collections::BTreeSet;

use super::{Places, UNITS, WARP, divided, entry, grouping};
use crate::cuda::traffic::{SECTOR, Traffic};
use crate::problem::EmbeddingProblem;
use crate::{Layout, Sequence, Sequences};

/// Bytes of a sequence in the list.
const LISTED: usize = 16;

/// What the launch reads and writes.
pub(super) fn of(problem: &EmbeddingProblem, sequences: Option<&Sequences>) -> Traffic {
    let (numbers, _) = entry(problem, &Places::contiguous(problem));
    let width = (problem.channels() / numbers) as u32;
    let (lanes, parts) = divided(width);
    // Warps that read the ids of a row, or of as many rows as a warp has.
    let warps: u32 =
        (0..parts).map(|part| (width - part * UNITS * lanes).min(lanes).div_ceil(WARP.min(lanes))).sum();
    let warps = if lanes < WARP { 1 } else { u64::from(warps) };
    let rows_of_a_warp = (WARP / lanes).max(1) as usize;
    let (grouping, _) = grouping(problem);
    let sequences = sequences.filter(|_| grouping > 0).map(Sequences::as_slice);
    let listed = sequences.is_some_and(|all| {
        !matches!(problem.grouping(), Some(Layout::Batch { .. }))
            || all.iter().any(|sequence| sequence.past > 0)
    });
    let kinds = 1 + u64::from(problem.types().is_some());
    let (mut there, mut traffic) = (0, Traffic::default());
    for first in (0..problem.tokens()).step_by(rows_of_a_warp) {
        let rows: Vec<usize> = (first..(first + rows_of_a_warp).min(problem.tokens())).collect();
        let searches: Vec<Vec<usize>> =
            sequences.map_or(vec![], |all| rows.iter().map(|&row| search(all, grouping == 2, row)).collect());
        let in_sequence = |at: usize| {
            let Some(all) = sequences else { return true };
            let sequence = all[*searches[at].last().expect("every search ends at a sequence")];
            rows[at] - sequence.first < sequence.length
        };
        let tokens: Vec<usize> = (0..rows.len()).filter(|&at| in_sequence(at)).map(|at| rows[at]).collect();
        there += tokens.len() as u64;
        let ids: BTreeSet<_> = tokens.iter().map(|row| row * size_of::<u32>() / SECTOR).collect();
        traffic.read += warps * kinds * ids.len() as u64;
        if listed {
            // Searches that take less steps than others are followed by the last of all, in which each reads its sequence.
            let steps = searches.iter().map(|search| search.len() - 1).max().unwrap_or(0);
            let sectors = |read: &dyn Fn(&Vec<usize>) -> Option<usize>| {
                let read: BTreeSet<_> =
                    searches.iter().filter_map(read).map(|index| index * LISTED / SECTOR).collect();
                read.len() as u64
            };
            let found = sectors(&|search| search.last().copied());
            let before = |step: usize| sectors(&|search| search[..search.len() - 1].get(step).copied());
            traffic.parameters += warps * (found + (0..steps).map(before).sum::<u64>());
        }
    }
    let sectors = |size: usize| (problem.channels() * size).div_ceil(SECTOR) as u64;
    let tables = kinds + u64::from(problem.positions().is_some());
    traffic.read += there * tables * sectors(problem.parameters().size());
    traffic.written = problem.tokens() as u64 * sectors(problem.dtype().size());
    traffic
}

/// The sequences that are looked at to find that of a row, which is the last of them.
fn search(all: &[Sequence], packed: bool, row: usize) -> Vec<usize> {
    if !packed {
        let room = all[0].length + all[0].padding;
        return vec![row / room];
    }
    let (mut low, mut high, mut looked) = (0, all.len(), vec![]);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        looked.push(middle);
        (low, high) = if all[middle].first <= row { (middle, high) } else { (low, middle) };
    }
    looked.push(low);
    looked
}
