use std::ops::Range;

use crate::cpu::buffer::given;
use crate::cpu::rows::Source;
use crate::cpu::tiles::Tiles;
use crate::cpu::{Rows, RowsMut, arch};
use crate::problem::EmbeddingProblem;
use crate::{Error, Result, Sequences};

/// An embedding, prepared: see [`EmbeddingProblem`].
#[derive(Clone, Debug)]
pub struct Embedding {
    problem: EmbeddingProblem,
}

/// What [`Embedding::run`] reads and writes.
#[derive(Debug)]
pub struct EmbeddingArgs<'a> {
    /// The sequences, of the problem's shape, where it has any.
    pub sequences: Option<&'a Sequences>,
    /// An id for each row of y.
    pub tokens: &'a [u32],
    /// `[V, C]`.
    pub table: Rows<'a>,
    /// `[P, C]`, where the problem has one.
    pub positions: Option<Rows<'a>>,
    /// An id for each row of y, where the problem has types.
    pub type_ids: Option<&'a [u32]>,
    /// `[T, C]`, where the problem has one.
    pub types: Option<Rows<'a>>,
    /// `[tokens, C]`, overwritten.
    pub y: RowsMut<'a>,
}

/// Rows and columns of a tile, at most: a row may have a million columns, or one.
const TILE: [usize; 2] = [64, 4096];

/// Numbers that are computed with at a time.
const PART: usize = 256;

impl Embedding {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: EmbeddingProblem) -> Self {
        Embedding { problem }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &EmbeddingProblem {
        &self.problem
    }

    /// Computes y.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, tensors or sequences that are missing or not part of
    /// the problem, and a token whose id, type or position is past its table. Nothing is written then.
    pub fn run<'a>(&self, args: EmbeddingArgs<'a>) -> Result<()> {
        let problem = &self.problem;
        let (tokens, channels) = (problem.tokens(), problem.channels());
        let sequences = given("sequences", args.sequences, problem.sequences().is_some())?;
        if let (Some(sequences), Some(shape)) = (sequences, problem.sequences()) {
            sequences.check(shape)?;
            problem.check_positions(sequences)?;
        }
        let ids = long_enough("tokens", args.tokens, tokens)?;
        problem.check_tokens(bound(ids, sequences))?;
        let type_ids = given("type ids", args.type_ids, problem.types().is_some())?
            .map(|ids| long_enough("type ids", ids, tokens))
            .transpose()?;
        problem.check_types(type_ids.map_or(0, |ids| bound(ids, sequences)))?;
        let table_of = |name, table: Option<Rows<'a>>, rows: Option<usize>| {
            let table = given(name, table, rows.is_some())?;
            table
                .zip(rows)
                .map(|(table, rows)| table.check(name, problem.parameters(), rows, channels))
                .transpose()
        };
        let table = args.table.check("table", problem.parameters(), problem.vocabulary(), channels)?;
        let positions = table_of("positions", args.positions, problem.positions())?;
        let types = table_of("types", args.types, problem.types())?;
        let y = args.y.check("y", problem.dtype(), tokens, channels)?;

        let [rows, columns] = TILE;
        Tiles::new(tokens, channels, rows, columns).for_each(&mut [], 0, |rows, columns, _| {
            let write = |row: usize, position: usize| {
                let position = positions.map(|table| (table, problem.first() + position));
                let type_id = types.zip(type_ids).map(|(table, ids)| (table, ids[row] as usize));
                for start in columns.clone().step_by(PART) {
                    let mut part = [0.0; PART];
                    let part = &mut part[..PART.min(columns.end - start)];
                    table.load(ids[row] as usize, start, part);
                    scale(part, problem.scale());
                    for (table, id) in [position, type_id].into_iter().flatten() {
                        add(part, table, id, start);
                    }
                    // SAFETY: tiles are disjoint in rows or columns, and each row of one is written once.
                    unsafe { y.store(row, start, part) };
                }
            };
            let Some(sequences) = sequences else {
                rows.for_each(|row| write(row, 0));
                return;
            };
            for piece in sequences.pieces(rows) {
                let sequence = piece.sequence;
                piece.tokens.for_each(|token| write(sequence.first + token, sequence.past + token));
                // SAFETY: as above.
                unsafe { y.zero(piece.padding, columns.clone()) };
            }
        });
        Ok(())
    }
}

/// An error unless there is an id for each token.
fn long_enough<'a>(tensor: &'static str, ids: &'a [u32], expected: usize) -> Result<&'a [u32]> {
    ids.get(..expected).ok_or(Error::Length { tensor, expected, got: ids.len() })
}

/// A number that the ids of all tokens are below, those in the padding left out.
fn bound(ids: &[u32], sequences: Option<&Sequences>) -> u64 {
    let most = |rows: Range<usize>| ids[rows].iter().max().map_or(0, |&id| u64::from(id) + 1);
    match sequences {
        None => most(0..ids.len()),
        Some(sequences) => {
            let of_tokens = sequences.as_slice().iter().map(|s| most(s.first..s.first + s.length));
            of_tokens.max().unwrap_or(0)
        }
    }
}

fn scale(row: &mut [f32], scale: f32) {
    if scale != 1.0 {
        arch().dispatch(
            #[inline(always)]
            || row.iter_mut().for_each(|x| *x *= scale),
        );
    }
}

/// Adds to a part of a row its twin in row `id` of a table.
fn add(part: &mut [f32], table: Source<'_>, id: usize, start: usize) {
    let mut other = [0.0; PART];
    let other = &mut other[..part.len()];
    table.load(id, start, other);
    arch().dispatch(
        #[inline(always)]
        || part.iter_mut().zip(&*other).for_each(|(x, other)| *x += other),
    );
}
