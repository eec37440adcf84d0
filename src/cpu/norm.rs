use pulp::{Simd, WithSimd};

use crate::cpu::arch;
use crate::cpu::buffer::{check_optional, given};
use crate::cpu::scratch::Division;
use crate::cpu::tiles::Tiles;
use crate::cpu::{Elements, Rows, RowsMut, padded};
use crate::problem::{NormKind, NormProblem, NormResidual};
use crate::{DType, Result};

/// Layer norm or RMS norm, prepared: see [`NormProblem`].
#[derive(Clone, Debug)]
pub struct Norm {
    problem: NormProblem,
}

/// What [`Norm::run`] reads and writes.
#[derive(Debug)]
pub struct NormArgs<'a> {
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[tokens, C]`, where the problem has one.
    pub residual: Option<Rows<'a>>,
    /// `[C]`.
    pub weight: Elements<'a>,
    /// `[C]`, where the problem has one.
    pub bias: Option<Elements<'a>>,
    /// `[tokens, C]`, overwritten.
    pub y: RowsMut<'a>,
    /// `[tokens, C]`, overwritten with x + residual, where the problem wants that.
    pub sum: Option<RowsMut<'a>>,
}

/// Numbers of a tile, about: enough that taking one is nothing beside it.
const TILE_NUMBERS: usize = 16 * 1024;

impl Norm {
    /// Ready to run any call that `problem` describes.
    pub fn new(problem: NormProblem) -> Self {
        Norm { problem }
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &NormProblem {
        &self.problem
    }

    /// Numbers of scratch memory that a run needs, on the threads of the current rayon pool.
    pub fn scratch_len(&self) -> usize {
        self.scratch().len()
    }

    /// Weight and bias where they are not f32; a row and its residual for each worker.
    fn scratch(&self) -> Division {
        let problem = &self.problem;
        let width = padded(problem.channels());
        let copies = match problem.parameters() {
            DType::F32 => 0,
            _ => 1 + usize::from(problem.has_bias()),
        };
        let rows = 1 + usize::from(problem.has_residual());
        Division { shared: width.saturating_mul(copies), per_worker: width.saturating_mul(rows) }
    }

    /// Computes y, and the sum where it is wanted.
    ///
    /// # Errors
    ///
    /// For a slice of another type than the problem's or too short for it, a residual, bias or sum that is missing or not
    /// part of the problem, or too little scratch. Nothing is written then.
    pub fn run(&self, args: NormArgs<'_>, scratch: &mut [f32]) -> Result<()> {
        let problem = &self.problem;
        let (tokens, channels, dtype) = (problem.tokens(), problem.channels(), problem.dtype());
        let x = args.x.check("x", dtype, tokens, channels)?;
        let residual = given("residual", args.residual, problem.has_residual())?
            .map(|residual| residual.check("residual", dtype, tokens, channels))
            .transpose()?;
        args.weight.check("weight", problem.parameters(), channels)?;
        check_optional("bias", args.bias, problem.has_bias(), problem.parameters(), channels)?;
        let y = args.y.check("y", dtype, tokens, channels)?;
        let sum = given("sum", args.sum, problem.has_sum())?
            .map(|sum| sum.check("sum", dtype, tokens, channels))
            .transpose()?;
        let (shared, worker_parts) = self.scratch().split(scratch)?;

        let width = padded(channels);
        let (weight_copy, bias_copy) = shared.split_at_mut(width.min(shared.len()));
        let weight = args.weight.as_f32(channels, weight_copy);
        let bias = args.bias.map(|bias| bias.as_f32(channels, bias_copy));
        let tiles = Tiles::new(tokens, 1, (TILE_NUMBERS / channels).clamp(1, 64), 1);
        tiles.for_each(worker_parts, self.scratch().worker_len(), |rows, _, scratch| {
            let (row, added) = scratch.split_at_mut(width);
            let row = &mut row[..channels];
            for token in rows {
                x.load(token, 0, row);
                if let Some(residual) = residual {
                    residual.load(token, 0, &mut added[..channels]);
                }
                if let NormResidual::Before { .. } = problem.residual() {
                    add(row, &added[..channels]);
                }
                if let Some(sum) = &sum {
                    // SAFETY: tiles are disjoint in rows, and each row of one is written once.
                    unsafe { sum.store(token, 0, row) };
                }
                arch().dispatch(OneRow { problem, row, weight, bias });
                if problem.residual() == NormResidual::After {
                    add(row, &added[..channels]);
                }
                // SAFETY: as above.
                unsafe { y.store(token, 0, row) };
            }
        });
        Ok(())
    }
}

/// Adds to each number its twin.
fn add(row: &mut [f32], other: &[f32]) {
    arch().dispatch(
        #[inline(always)]
        || {
            for (x, other) in row.iter_mut().zip(other) {
                *x += other;
            }
        },
    );
}

/// A row to be replaced by its norm.
struct OneRow<'a> {
    problem: &'a NormProblem,
    row: &'a mut [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
}

impl WithSimd for OneRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let OneRow { problem, row, weight, bias } = self;
        let channels = problem.channels() as f32;
        if problem.kind() == NormKind::Layer {
            let mean = sum(simd, row, |x, sum| simd.add_f32s(x, sum), |x| x) / channels;
            let (vectors, rest) = S::as_mut_simd_f32s(row);
            let means = simd.splat_f32s(mean);
            vectors.iter_mut().for_each(|x| *x = simd.sub_f32s(*x, means));
            rest.iter_mut().for_each(|x| *x -= mean);
        }
        let squares = sum(simd, row, |x, sum| simd.mul_add_e_f32s(x, x, sum), |x| x * x);
        let scale = 1.0 / (squares / channels + problem.eps()).sqrt();
        // First by one over the root: what comes of that is no more than the root of C, and cannot overflow.
        for (x, weight) in row.iter_mut().zip(weight) {
            *x = *x * scale * weight;
        }
        if let Some(bias) = bias {
            for (x, bias) in row.iter_mut().zip(bias) {
                *x += bias;
            }
        }
    }
}

/// The sum of a term of each number, in four vectors.
#[inline(always)]
fn sum<S: Simd>(
    simd: S,
    row: &[f32],
    add: impl Fn(S::f32s, S::f32s) -> S::f32s,
    term: impl Fn(f32) -> f32,
) -> f32 {
    let (vectors, rest) = S::as_simd_f32s(row);
    let mut sums = [simd.splat_f32s(0.0); 4];
    for four in vectors.chunks(4) {
        for (sum, x) in sums.iter_mut().zip(four) {
            *sum = add(*x, *sum);
        }
    }
    let [a, b, c, d] = sums;
    let all = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
    simd.reduce_sum_f32s(all) + rest.iter().map(|&x| term(x)).sum::<f32>()
}
