mod backward;

pub use backward::{LightConvBackwardProblem, LightConvWanted};

use crate::problem::{Convolution, count};

/// Light convolution: one filter a head, the same for every token.
///
/// y\[t, c\] = bias\[c\] + sum_j w\[h(c), j\] x\[t + j r - P, c\], w = normalize(weight), weight `[H, K]`
/// (Wu et al. 2019, equations 3 and 4). With H = C it is depthwise convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LightConvProblem {
    convolution: Convolution,
}

impl LightConvProblem {
    /// Every convolution is a light one.
    pub const fn new(convolution: Convolution) -> Self {
        LightConvProblem { convolution }
    }

    /// Tokens, heads and window.
    pub const fn convolution(&self) -> &Convolution {
        &self.convolution
    }

    /// Sizes of the weight, `[H, K]`.
    pub const fn weight_shape(&self) -> [usize; 2] {
        [self.convolution.heads(), self.convolution.window().width()]
    }

    /// Operations: 2 K C a token.
    pub fn flops(&self) -> u64 {
        self.convolution.flops()
    }

    /// Bytes that must move: x, y, weight, bias and history, once each.
    pub fn bytes(&self) -> u64 {
        let weight = count(&self.weight_shape()) * self.convolution.parameters().size() as u64;
        self.convolution.bytes() + weight
    }
}
