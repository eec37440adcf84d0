use crate::DType;
use crate::problem::{NormKind, NormProblem, NormResidual};
use crate::reference::{ARITHMETIC, Estimate, PER_TERM};

/// What [`norm`] reads, each value exactly as the backend gets it.
#[derive(Clone, Copy, Debug)]
pub struct NormInputs<'a> {
    /// `[tokens, C]`.
    pub x: &'a [f64],
    /// `[tokens, C]`, where the problem has one.
    pub residual: Option<&'a [f64]>,
    /// `[C]`.
    pub weight: &'a [f64],
    /// `[C]`, where the problem has one.
    pub bias: Option<&'a [f64]>,
}

/// What [`norm`] computes for one row.
#[derive(Clone, Debug)]
pub struct NormOutputs {
    /// The norm, with the residual where that comes after.
    pub y: Vec<Estimate>,
    /// x + residual, where the problem wants it.
    pub sum: Option<Vec<Estimate>>,
}

const U32: f64 = DType::F32.unit_roundoff();

/// Devices may flush what is smaller than any normal number.
const FLUSHED: f64 = f32::MIN_POSITIVE as f64;

/// y = (s - m) / sqrt(v + eps) weight + bias for one row of x, with s = x or x + residual, m the mean of s (0 for an RMS
/// norm) and v the mean of (s - m)^2; plus the residual where it comes after.
///
/// # The bound
///
/// Each step in f32, with a = [`ARITHMETIC`] + [`PER_TERM`] C for a sum over the row:
///
/// - s is off by ds = u32 |s| where it is a sum; m by dm = mean(ds) + a u32 mean(|s|).
/// - d = s - m is off by dm, the same for the whole row, and by e = ds + u32 |d| of its own.
/// - Squares around a mean that is off by dm are too many by dm^2 and no more, since the differences sum to zero: v is off by
///   dm^2 + mean(2 (|d| + dm) e + e^2) + a u32 v.
/// - r = 1 / sqrt(v + eps) is as far off as that lets it be, and `ARITHMETIC` u32 r more. A sum of squares is never
///   negative, so that v + eps is never less than eps.
/// - y is off by |weight| ((dm + e) r + |d| dr), and the roundings of its last steps.
pub fn norm(problem: &NormProblem, inputs: NormInputs<'_>, row: usize) -> NormOutputs {
    let channels = problem.channels();
    let of_row = |tensor: &[f64]| tensor[row * channels..][..channels].to_vec();
    let x = of_row(inputs.x);
    let residual = inputs.residual.map(of_row).unwrap_or_else(|| vec![0.0; channels]);
    let before = matches!(problem.residual(), NormResidual::Before { .. });
    let s: Vec<Estimate> = x
        .iter()
        .zip(&residual)
        .map(|(x, residual)| match before {
            true => Estimate { value: x + residual, bound: U32 * (x + residual).abs() + FLUSHED },
            false => Estimate::exact(*x),
        })
        .collect();

    let mean = |of: &dyn Fn(&Estimate) -> f64| s.iter().map(of).sum::<f64>() / channels as f64;
    let roundoffs = (ARITHMETIC + PER_TERM * channels as f64) * U32;
    let m = match problem.kind() {
        NormKind::Layer => Estimate {
            value: mean(&|s| s.value),
            bound: mean(&|s| s.bound) + roundoffs * mean(&|s| s.value.abs()) + FLUSHED,
        },
        NormKind::Rms => Estimate::exact(0.0),
    };
    // How far a difference is off, but for the mean.
    let own = |s: &Estimate| s.bound + U32 * ((s.value - m.value).abs() + m.bound) + FLUSHED;
    let v = mean(&|s| (s.value - m.value).powi(2));
    let squares_off = mean(&|s| {
        let (d, own) = ((s.value - m.value).abs() + m.bound, own(s));
        2.0 * d * own + own * own
    });
    let around = m.bound * m.bound + squares_off;
    let eps = f64::from(problem.eps());
    let square = v + eps;
    let off = around + roundoffs * (v + around) + U32 * square + FLUSHED;
    let root = square.sqrt().recip();
    let least = (square - off).max(eps * (1.0 - ARITHMETIC * U32));
    let root_off = least.sqrt().recip() - root + ARITHMETIC * U32 * root;

    let y = s
        .iter()
        .enumerate()
        .map(|(c, s)| {
            let (weight, bias) = (inputs.weight[c], inputs.bias.map_or(0.0, |bias| bias[c]));
            let after = if problem.residual() == NormResidual::After { residual[c] } else { 0.0 };
            let d = s.value - m.value;
            let scaled = d * root;
            let scaled_off = (m.bound + own(s)) * (root + root_off) + d.abs() * root_off + FLUSHED;
            let magnitude = (scaled * weight).abs() + bias.abs() + after.abs();
            let bound = weight.abs() * scaled_off + ARITHMETIC * U32 * magnitude + FLUSHED;
            Estimate { value: scaled * weight + bias + after, bound }.stored(problem.dtype())
        })
        .collect();
    let sum = problem.has_sum().then(|| s.iter().map(|s| s.stored(problem.dtype())).collect());
    NormOutputs { y, sum }
}
