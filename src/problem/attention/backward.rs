use crate::problem::{AttentionProblem, count};

/// Which gradients of attention are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionWanted {
    /// That of q.
    pub q: bool,
    /// That of k.
    pub k: bool,
    /// That of v.
    pub v: bool,
}

impl AttentionWanted {
    /// Every gradient.
    pub const ALL: Self = AttentionWanted { q: true, k: true, v: true };
    /// None of them.
    pub const NONE: Self = AttentionWanted { q: false, k: false, v: false };
}

impl Default for AttentionWanted {
    fn default() -> Self {
        AttentionWanted::ALL
    }
}

/// The backward pass of an [`AttentionProblem`], from its inputs, its output y and dy.
///
/// For each head, with p\[i\] the weights of query i over the keys that it sees (Dao et al. 2022, appendix B):
///
/// - dv\[n\] = sum_i p\[i, n\] dy\[i\]
/// - ds\[i, n\] = p\[i, n\] (dy\[i\] v\[n\] - dy\[i\] y\[i\])
/// - dq\[i\] = scale sum_n ds\[i, n\] k\[n\], dk\[n\] = scale sum_i ds\[i, n\] q\[i\]
///
/// The weights are computed again from q and k; y is taken as it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionBackwardProblem {
    forward: AttentionProblem,
    wanted: AttentionWanted,
}

impl AttentionBackwardProblem {
    /// The gradients `wanted` of `forward`.
    pub const fn new(forward: AttentionProblem, wanted: AttentionWanted) -> Self {
        AttentionBackwardProblem { forward, wanted }
    }

    /// The problem whose gradients these are.
    pub const fn forward(&self) -> &AttentionProblem {
        &self.forward
    }

    /// Which gradients are wanted.
    pub const fn wanted(&self) -> AttentionWanted {
        self.wanted
    }

    /// Operations, for every query, head and key allowed: 2 D for the score, as much for dy v where dq or dk is wanted, and
    /// as much for each gradient.
    pub fn flops(&self) -> u64 {
        let wanted = self.wanted;
        let gradients = u64::from(wanted.q) + u64::from(wanted.k) + u64::from(wanted.v);
        let products = u64::from(gradients > 0) + u64::from(wanted.q || wanted.k) + gradients;
        (self.forward.flops() / 2).saturating_mul(products)
    }

    /// Bytes that must move: q, k, dy, and v and y where dq or dk is wanted, once each, and each gradient that is wanted.
    pub fn bytes(&self) -> u64 {
        let (forward, wanted) = (&self.forward, self.wanted);
        let tensor = |tokens: usize| count(&[tokens, forward.channels(), forward.dtype().size()]);
        let (queries, keys) = (tensor(forward.queries().tokens()), tensor(forward.keys().tokens()));
        let when = |wanted: bool, bytes: u64| if wanted { bytes } else { 0 };
        when(wanted.q || wanted.k || wanted.v, 2 * queries + keys)
            + when(wanted.q || wanted.k, queries + keys)
            + when(wanted.q, queries)
            + when(wanted.k, keys)
            + when(wanted.v, keys)
    }
}
