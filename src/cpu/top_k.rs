use pulp::{Scalar, Simd, WithSimd};

use crate::cpu::buffer::given;
use crate::cpu::rows::Source;
use crate::cpu::scratch::Division;
use crate::cpu::softmax::exp;
use crate::cpu::tiles::Tiles;
use crate::cpu::{Rows, RowsMut, arch, padded};
use crate::problem::TopKProblem;
use crate::{DType, Error, Result};

/// The largest numbers of rows, prepared: see [`TopKProblem`].
#[derive(Clone, Debug)]
pub struct TopK {
    problem: TopKProblem,
}

/// What [`TopK::run`] reads and writes.
#[derive(Debug)]
pub struct TopKArgs<'a> {
    /// `[rows, V]`.
    pub x: Rows<'a>,
    /// `[rows, k]` in f32, overwritten, where the problem wants them.
    pub values: Option<RowsMut<'a>>,
    /// `[rows, k]`, overwritten.
    pub tokens: &'a mut [u32],
}

/// Numbers that are looked at together.
const PART: usize = 256;

impl TopK {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: TopKProblem) -> Self {
        TopK { problem }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &TopKProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self) -> usize {
        self.scratch().len()
    }

    /// The best so far, and their indices, for each worker.
    fn scratch(&self) -> Division {
        Division { shared: 0, per_worker: padded(self.problem.k()).saturating_mul(2) }
    }

    /// Computes tokens, and values where they are wanted.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, values that are missing or not part of the problem,
    /// or too little scratch. Nothing is written then.
    pub fn run(&self, args: TopKArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let problem = &self.problem;
        let (rows, vocabulary, k) = (problem.rows(), problem.vocabulary(), problem.k());
        let x = args.x.check("x", problem.dtype(), rows, vocabulary)?;
        let values = given("values", args.values, problem.has_values())?
            .map(|values| values.check("values", DType::F32, rows, k))
            .transpose()?;
        let got = args.tokens.len();
        if got < rows * k {
            return Err(Error::Length { tensor: "tokens", expected: rows * k, got });
        }
        // Their bits are only moved.
        let tokens = RowsMut::contiguous(bytemuck::cast_slice_mut::<u32, f32>(args.tokens));
        let tokens = tokens.check("tokens", DType::F32, rows, k)?;
        let (_, worker_parts) = self.scratch().split(scratch)?;
        Tiles::new(rows, 1, 1, 1).for_each(worker_parts, self.scratch().worker_len(), |rows, _, scratch| {
            let (best, indices) = scratch.split_at_mut(padded(k));
            let (best, indices) = (&mut best[..k], &mut indices[..k]);
            for row in rows {
                rank(x, row, vocabulary, best, bytemuck::cast_slice_mut(indices));
                if problem.has_log_softmax() {
                    let largest = best[0];
                    let log_sum = sum_of_exponentials(x, row, vocabulary, largest).ln();
                    best.iter_mut().for_each(|value| *value = *value - largest - log_sum);
                }
                // SAFETY: tiles are disjoint in rows, and each row of one is written once. The same for the tokens.
                unsafe { tokens.store(row, 0, indices) };
                if let Some(values) = &values {
                    // SAFETY: as above.
                    unsafe { values.store(row, 0, best) };
                }
            }
        });
        Ok(())
    }
}

/// Calls `body` with each part of a row, and where it begins.
fn parts(x: Source<'_>, row: usize, vocabulary: usize, mut body: impl FnMut(usize, &[f32])) {
    let mut part = [0.0; PART];
    for start in (0..vocabulary).step_by(PART) {
        let part = &mut part[..PART.min(vocabulary - start)];
        x.load(row, start, part);
        body(start, part);
    }
}

/// Whether a number ranks above one that stands before it.
fn above(x: f32, other: f32) -> bool {
    x > other || x.is_nan() && !other.is_nan()
}

/// The best numbers of a row and their indices, in their order: each number goes to its place among the best so far.
fn rank(x: Source<'_>, row: usize, vocabulary: usize, best: &mut [f32], indices: &mut [u32]) {
    let (k, mut found) = (best.len(), 0);
    parts(x, row, vocabulary, |start, part| {
        if found == k && !any_above(part, best[k - 1]) {
            return;
        }
        for (i, &x) in part.iter().enumerate() {
            if found == k && !above(x, best[k - 1]) {
                continue;
            }
            // The last one goes, or there is room for one more.
            let mut place = found.min(k - 1);
            found = (found + 1).min(k);
            while place > 0 && above(x, best[place - 1]) {
                (best[place], indices[place]) = (best[place - 1], indices[place - 1]);
                place -= 1;
            }
            (best[place], indices[place]) = (x, (start + i) as u32);
        }
    });
}

/// Whether any number of a part ranks above one that stands before them all.
fn any_above(part: &[f32], other: f32) -> bool {
    !other.is_nan()
        && arch().dispatch(
            #[inline(always)]
            // A NaN is not at most the other either.
            || {
                part.iter().fold(false, |any, x| {
                    any | !matches!(x.partial_cmp(&other), Some(order) if order.is_le())
                })
            },
        )
}

/// The sum of exp(x - largest) over a row.
fn sum_of_exponentials(x: Source<'_>, row: usize, vocabulary: usize, largest: f32) -> f32 {
    let mut sum = 0.0;
    parts(x, row, vocabulary, |_, part| sum += arch().dispatch(Exponentials { part, largest }));
    sum
}

struct Exponentials<'a> {
    part: &'a [f32],
    largest: f32,
}

impl WithSimd for Exponentials<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (vectors, rest) = S::as_simd_f32s(self.part);
        let (largest, mut sum) = (simd.splat_f32s(self.largest), simd.splat_f32s(0.0));
        for &x in vectors {
            sum = simd.add_f32s(sum, exp(simd, simd.sub_f32s(x, largest)));
        }
        simd.reduce_sum_f32s(sum) + rest.iter().map(|x| exp(Scalar, x - self.largest)).sum::<f32>()
    }
}
