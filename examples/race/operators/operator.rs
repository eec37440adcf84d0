//! Who races, and over what.

use lightspan::ops::{self, AttentionKind, AttentionOptions, LinearOptions, SpanConvTensors};
use lightspan::problem::{
    AttentionProblem, Convolution, DynamicConvProblem, LightConvProblem, Mask, SpanConvProblem,
};
use lightspan::{Device, Result, Sequences, Tensor};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use super::plan::Setting;
use super::tokens::uniform;
use crate::round::Racer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    LightConv,
    DynamicConv,
    SpanConv,
    NaiveAttention,
    FusedAttention,
    LocalAttention,
}

impl Operator {
    pub(crate) const ALL: [Operator; 6] = [
        Operator::LightConv,
        Operator::DynamicConv,
        Operator::SpanConv,
        Operator::NaiveAttention,
        Operator::FusedAttention,
        Operator::LocalAttention,
    ];

    /// Its name and its line.
    pub(crate) const fn racer(self) -> Racer {
        let (name, colour, dashed) = match self {
            Operator::LightConv => ("light_conv", (0, 158, 115), false),
            Operator::DynamicConv => ("dynamic_conv", (0, 114, 178), false),
            Operator::SpanConv => ("span_conv", (86, 180, 233), false),
            Operator::NaiveAttention => ("naive attention", (110, 110, 110), true),
            Operator::FusedAttention => ("fused attention", (213, 94, 0), true),
            Operator::LocalAttention => ("local attention", (230, 159, 0), true),
        };
        Racer { name, colour, dashed }
    }

    /// The keys that an attention sees; local attention, those under the window of the convolutions.
    fn mask(self, setting: &Setting) -> Mask {
        if self == Operator::LocalAttention { setting.window.into() } else { Mask::FULL }
    }

    /// One call of this operator.
    pub(crate) fn problem(self, setting: &Setting, sequences: &Sequences) -> Result<Problem> {
        let Setting { channels, heads, window, dtype, .. } = *setting;
        let shape = sequences.shape();
        // Also what refuses heads that do not divide the channels, for attention as well.
        let conv = Convolution::new(shape, channels, heads, window, dtype)?;
        Ok(match self {
            Operator::LightConv => Problem::LightConv(LightConvProblem::new(conv)),
            Operator::DynamicConv => Problem::DynamicConv(DynamicConvProblem::generated(conv)?),
            Operator::SpanConv => Problem::SpanConv(SpanConvProblem::new(channels, conv)?),
            Operator::NaiveAttention | Operator::FusedAttention | Operator::LocalAttention => {
                let attention = AttentionProblem::new(shape, shape, heads, conv.head_channels(), dtype)?;
                Problem::Attention(attention.with_mask(self.mask(setting)))
            }
        })
    }

    /// Runs it over the track, into y.
    pub(crate) fn run(self, track: &Track<'_>, y: &mut Tensor) -> Result<()> {
        let Track { setting, parameters, x, q, k, v, .. } = track;
        let Setting { heads, window, .. } = **setting;
        match self {
            Operator::LightConv => ops::light_conv_into(y, x, &parameters.light, window, &Default::default()),
            Operator::DynamicConv => {
                ops::dynamic_conv_into(y, x, &parameters.generator, heads, window, &Default::default())
            }
            Operator::SpanConv => {
                let tensors = SpanConvTensors {
                    x,
                    query: q.into(),
                    value: v.into(),
                    depthwise: &parameters.depthwise,
                    pointwise: &parameters.pointwise,
                    weight: &parameters.generator,
                };
                ops::span_conv_into(y, &tensors, heads, window, &Default::default())
            }
            Operator::NaiveAttention | Operator::FusedAttention | Operator::LocalAttention => {
                let kind = match self {
                    Operator::NaiveAttention => AttentionKind::Naive,
                    _ => AttentionKind::Fused,
                };
                let options = AttentionOptions { mask: self.mask(setting), kind, ..Default::default() };
                ops::attention_into(y, q, k, v, heads, &options)
            }
        }
    }
}

/// One call, as the crate describes it.
pub(crate) enum Problem {
    LightConv(LightConvProblem),
    DynamicConv(DynamicConvProblem),
    SpanConv(SpanConvProblem),
    Attention(AttentionProblem),
}

impl Problem {
    pub(crate) fn flops(&self) -> u64 {
        match self {
            Problem::LightConv(problem) => problem.flops(),
            Problem::DynamicConv(problem) => problem.flops(),
            Problem::SpanConv(problem) => problem.flops(),
            Problem::Attention(problem) => problem.flops(),
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Problem::LightConv(problem) => problem.bytes(),
            Problem::DynamicConv(problem) => problem.bytes(),
            Problem::SpanConv(problem) => problem.bytes(),
            Problem::Attention(problem) => problem.bytes(),
        }
    }
}

/// Weights, the same at every length: random, as time does not depend on what was learned.
pub(crate) struct Parameters {
    /// `[H, K]`.
    pub(crate) light: Tensor,
    /// W `[H K, C]`, which generates the kernels of dynamic_conv and span_conv.
    pub(crate) generator: Tensor,
    /// `[C, K]`.
    pub(crate) depthwise: Tensor,
    /// `[C, C]`.
    pub(crate) pointwise: Tensor,
    /// What make q, k and v of x, `[C, C]` each.
    projections: [Tensor; 3],
}

impl Parameters {
    pub(crate) fn new(setting: &Setting, device: &Device) -> Result<Self> {
        let Setting { channels, heads, window, dtype, .. } = *setting;
        let width = window.width();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
        // Sums over `inputs` of these have the size of what they sum.
        let mut weight = |outputs: usize, columns: usize, inputs: usize| {
            let values = uniform(&mut rng, outputs * columns, 1.0 / (inputs as f32).sqrt());
            Tensor::from_f32(&values, &[outputs, columns], dtype, device)
        };
        Ok(Parameters {
            light: weight(heads, width, 1)?,
            generator: weight(heads * width, channels, channels)?,
            depthwise: weight(channels, width, width)?,
            pointwise: weight(channels, channels, channels)?,
            projections: [
                weight(channels, channels, channels)?,
                weight(channels, channels, channels)?,
                weight(channels, channels, channels)?,
            ],
        })
    }
}

/// The tokens of one length on the device, with all that the operators read.
pub(crate) struct Track<'a> {
    pub(crate) setting: &'a Setting,
    pub(crate) parameters: &'a Parameters,
    /// Tokens of a sequence, T.
    pub(crate) length: usize,
    pub(crate) sequences: Sequences,
    /// `[batch, T, C]`, as are q, k and v.
    pub(crate) x: Tensor,
    pub(crate) q: Tensor,
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
}

impl<'a> Track<'a> {
    pub(crate) fn new(
        setting: &'a Setting,
        parameters: &'a Parameters,
        x: &[f32],
        length: usize,
        device: &Device,
    ) -> Result<Self> {
        let sequences = Sequences::batch(setting.batch, length)?;
        let shape = sequences.shape().tensor(setting.channels);
        let x = Tensor::from_f32(x, &shape, setting.dtype, device)?;
        let project = |weight: &Tensor| ops::linear(&x, weight, &LinearOptions::default());
        let [q, k, v] = &parameters.projections;
        let (q, k, v) = (project(q)?, project(k)?, project(v)?);
        Ok(Track { setting, parameters, length, sequences, x, q, k, v })
    }
}
