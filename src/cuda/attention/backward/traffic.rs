//! What the launches of a backward pass of attention read and write.

use crate::cuda::attention::backward::plan::{TILE, gradient_kernel};
use crate::cuda::attention::{lists, naive, sectors_of_row, tiles, tiles_of};
use crate::cuda::traffic::{SECTOR, Traffic, sectors};
use crate::gpu::{Tiles, listed};
use crate::problem::{AttentionBackwardProblem, AttentionKind, AttentionProblem};
use crate::{Result, Sequence, Sequences};

/// A call on sequences: those of rows, and those of columns.
struct Call<'a> {
    problem: AttentionProblem,
    rows: &'a Sequences,
    columns: &'a Sequences,
    /// Whether columns are queries.
    by_key: bool,
    /// Queries of all sequences: numbers of a plane of statistics for each head.
    queries: usize,
}

/// Sectors of `count` numbers of f32 from number `first` on, as warps read them, 32 at a time.
fn numbers(first: usize, count: usize) -> u64 {
    (0..count).step_by(32).map(|run| sectors((first + run) * 4, 32.min(count - run) * 4)).sum()
}

impl Call<'_> {
    fn tiles(&self, parts: usize) -> Result<Tiles> {
        let listed = listed(self.rows.shape()) || self.rows.continues();
        tiles(&self.problem, listed, TILE, parts)
    }

    fn lists(&self, tiles: &Tiles) -> u64 {
        lists(tiles, self.rows, self.columns)
    }

    /// The tiles of a head, with the sequences of their rows and columns, and their first row.
    fn each(&self, tiles: &Tiles) -> Vec<(super::super::Tile, Sequence, usize)> {
        let all = tiles_of(&self.problem, tiles, self.rows, self.columns);
        let sequences = self.rows.as_slice().iter().flat_map(|&sequence| {
            (0..sequence.length + sequence.padding)
                .step_by(TILE)
                .map(move |start| (sequence, sequence.first + start))
        });
        all.into_iter().zip(sequences).map(|(tile, (sequence, first))| (tile, sequence, first)).collect()
    }

    /// One of three planes of statistics, for every head.
    fn plane(&self, which: usize, first: usize, count: usize) -> u64 {
        let heads = self.problem.heads();
        (0..heads).map(|head| numbers((which * heads + head) * self.queries + first, count)).sum()
    }

    fn statistics(&self, has_scores: bool, has_gradients: bool) -> Result<Traffic> {
        let tiles = self.tiles(1)?;
        let heads = self.problem.heads() as u64;
        let row = sectors_of_row(&self.problem, self.problem.head_channels()) * heads;
        let mut all = Traffic { parameters: self.lists(&tiles), ..Traffic::default() };
        for (tile, _, first) in self.each(&tiles) {
            if has_scores {
                all.read += row * (tile.seen.len().div_ceil(TILE) * tile.queries + tile.seen.len()) as u64;
            }
            if has_gradients {
                all.read += 2 * row * tile.queries as u64;
            }
            // Of two rows of a warp, one lane each.
            let planes =
                [0, 1, 2].into_iter().filter(|&which| if which < 2 { has_scores } else { has_gradients });
            for which in planes {
                let of_pair = |row: usize| self.plane(which, first + row, 2.min(tile.queries - row));
                all.written += (0..tile.queries).step_by(2).map(of_pair).sum::<u64>();
            }
        }
        Ok(all)
    }

    /// Of fused attention.
    fn gradient(&self, has_gradients: bool) -> Result<Traffic> {
        let tiles = self.tiles(1)?;
        let turns = 1 + usize::from(has_gradients);
        let row = sectors_of_row(&self.problem, self.problem.head_channels()) * self.problem.heads() as u64;
        let mut all = Traffic { parameters: self.lists(&tiles), ..Traffic::default() };
        for (tile, _, first_row) in self.each(&tiles) {
            all.written += row * tile.rows as u64;
            for first in tile.seen.clone().step_by(TILE) {
                let count = TILE.min(tile.seen.end - first);
                all.read += row * (turns * (tile.queries + count) + count) as u64;
                let (query, queries) =
                    if self.by_key { (tile.keys.first + first, count) } else { (first_row, tile.queries) };
                all.read += (0..1 + turns).map(|which| self.plane(which, query, queries)).sum::<u64>();
            }
        }
        Ok(all)
    }

    /// Of naive attention: ds in the place of weights.
    fn score_gradients(&self, longest: usize) -> Result<Traffic> {
        let parts = longest.div_ceil(TILE);
        let tiles = self.tiles(parts)?;
        let row = sectors_of_row(&self.problem, self.problem.head_channels());
        let heads = self.problem.heads();
        let mut all = Traffic { parameters: self.lists(&tiles), ..Traffic::default() };
        for (tile, _, first_row) in self.each(&tiles) {
            for first in (tile.seen.start / TILE * TILE..tile.seen.end).step_by(TILE) {
                let count = TILE.min(tile.seen.end - first);
                all.read += row * heads as u64 * (tile.queries + count) as u64;
                // A warp has 16 columns of two rows.
                for head in 0..heads {
                    for pair in (0..tile.queries).step_by(2) {
                        for run in (first..first + TILE).step_by(16) {
                            let seen = |row: usize| {
                                let seen = &tile.each[row];
                                run.max(seen.start)..(run + 16).min(seen.end)
                            };
                            let rows = pair..tile.queries.min(pair + 2);
                            let of_row = |row| {
                                let seen: std::ops::Range<usize> = seen(row);
                                sectors(seen.start * 4, seen.len() * 4)
                            };
                            let scores: u64 = rows.clone().map(of_row).sum();
                            let mean = (2 * heads + head) * self.queries + first_row;
                            let places: std::collections::BTreeSet<_> = rows
                                .filter(|&row| !seen(row).is_empty())
                                .map(|row| (mean + row) * 4 / SECTOR)
                                .collect();
                            all.read += scores + places.len() as u64;
                            all.written += scores;
                        }
                    }
                }
            }
        }
        Ok(all)
    }

    /// Of naive attention: sums of rows by what lies in memory.
    fn weighted(&self) -> Result<Traffic> {
        let d = self.problem.head_channels();
        let tiles = self.tiles(d.div_ceil(TILE))?;
        let heads = self.problem.heads() as u64;
        let mut all = Traffic { parameters: self.lists(&tiles), ..Traffic::default() };
        for (tile, sequence, first_row) in self.each(&tiles) {
            let start = first_row - sequence.first;
            let mut weights = 0;
            let mut columns = 0;
            for first in tile.seen.clone().step_by(TILE) {
                let count = TILE.min(tile.seen.end - first);
                columns += count;
                // A warp reads 32 scores side by side: of one row, or seen from keys of one column.
                weights += if self.by_key {
                    let of_column = |column: usize| {
                        let seen = (0..tile.queries).filter(|&row| tile.each[row].contains(&column));
                        let mut runs = [0u64; 2];
                        for (half, run) in runs.iter_mut().enumerate() {
                            let places: std::collections::BTreeSet<_> = seen
                                .clone()
                                .filter(|row| row / 32 == half)
                                .map(|row| (start + row) * 4 / SECTOR)
                                .collect();
                            *run = places.len() as u64;
                        }
                        runs.iter().sum::<u64>()
                    };
                    (first..first + count).map(of_column).sum::<u64>()
                } else {
                    let of_row = |row: usize| {
                        let seen = &tile.each[row];
                        let runs = (first..first + TILE).step_by(32);
                        runs.map(|run| {
                            let (from, to) = (run.max(seen.start), (run + 32).min(seen.end));
                            sectors(from * 4, to.saturating_sub(from) * 4)
                        })
                        .sum::<u64>()
                    };
                    (0..tile.queries).map(of_row).sum()
                };
            }
            for channels in (0..d).step_by(TILE).map(|first| (d - first).min(TILE)) {
                let row = sectors_of_row(&self.problem, channels);
                all.read += heads * (weights + row * columns as u64);
                all.written += heads * row * tile.rows as u64;
            }
        }
        Ok(all)
    }
}

pub(super) fn traffic(
    problem: &AttentionBackwardProblem,
    kind: AttentionKind,
    queries: &Sequences,
    keys: &Sequences,
) -> Result<Traffic> {
    let (forward, wanted) = (problem.forward(), problem.wanted());
    if !(wanted.q || wanted.k || wanted.v) {
        return Ok(Traffic::default());
    }
    let naive = kind == AttentionKind::Naive;
    let count = forward.queries().tokens();
    let longest = keys.as_slice().iter().map(|keys| keys.length).max().unwrap_or(0);
    let by_query = Call { problem: *forward, rows: queries, columns: keys, by_key: false, queries: count };
    let by_key =
        Call { problem: forward.mirrored(), rows: keys, columns: queries, by_key: true, queries: count };
    let has_gradients = wanted.q || wanted.k;
    let [has_queries, has_keys] = [count > 0, forward.keys().tokens() > 0];
    let mut all = Traffic::default();
    if naive && has_queries && longest > 0 {
        all = all + naive::traffic_of_weights(forward, queries, keys)?;
    }
    if has_queries && (has_gradients || !naive) {
        all = all + by_query.statistics(!naive, has_gradients)?;
    }
    if naive && has_gradients && has_queries && longest > 0 {
        all = all + by_query.score_gradients(longest)?;
    }
    debug_assert!(gradient_kernel(forward, kind).1 > 0);
    let sums = [(wanted.v && has_keys, &by_key, false), (wanted.k && has_keys, &by_key, true)];
    for (wanted, call, has_gradients) in sums.into_iter().chain([(wanted.q && has_queries, &by_query, true)])
    {
        if wanted {
            all = all + if naive { call.weighted()? } else { call.gradient(has_gradients)? };
        }
    }
    Ok(all)
}
