use lightspan::ops::AttentionKind;
use lightspan::problem::{AttentionBackwardProblem, AttentionWanted};
use lightspan::reference::{self, AttentionGradients};
use lightspan::{Device, Result, Tensor, ops};
use proptest::prelude::*;

use super::{Call, Case, KINDS, case, kinds};
use crate::support::{Expected, Numbers, Selection, Values, check_gradients, config, selection};

/// A drawn call, its output, and the gradient of that.
pub struct Backward {
    pub call: Call,
    pub y: Values,
    pub dy: Values,
    pub wanted: AttentionWanted,
}

impl Backward {
    pub fn draw(case: &Case, selection: Selection) -> Self {
        let (call, mut numbers) = (Call::draw(case), Numbers::new(case.seed ^ 1));
        let wanted = AttentionWanted { q: selection.has(0), k: selection.has(1), v: selection.has(2) };
        let dy = numbers.tokens(&case.queries, case.heads * case.head_channels, case.dtype, 1.0);
        let y = call.expected().iter().map(|y| case.dtype.round(y.value)).collect();
        let mut y = Values { data: y, shape: dy.shape.clone(), dtype: dy.dtype };
        // Nothing may read the padding.
        y.data.iter_mut().zip(&dy.data).filter(|(_, dy)| dy.is_nan()).for_each(|(y, _)| *y = f64::NAN);
        Backward { call, y, dy, wanted }
    }

    pub fn problem(&self) -> AttentionBackwardProblem {
        AttentionBackwardProblem::new(self.call.problem(), self.wanted)
    }

    pub fn reference(&self) -> AttentionGradients {
        let Case { queries, keys, .. } = &self.call.case;
        let (problem, inputs) = (self.problem(), self.call.inputs());
        reference::attention_backward(&problem, queries, keys, inputs, &self.y.data, &self.dy.data)
    }

    pub fn expected(&self) -> Vec<Expected> {
        let AttentionGradients { q, k, v } = self.reference();
        let (wanted, call) = (self.wanted, &self.call);
        let of = |name, wanted, estimates, like: &Values| Expected {
            name,
            wanted,
            estimates,
            shape: like.shape.clone(),
            dtype: like.dtype,
        };
        vec![of("dq", wanted.q, q, &call.q), of("dk", wanted.k, k, &call.k), of("dv", wanted.v, v, &call.v)]
    }

    pub fn run(&self, kind: AttentionKind, device: &Device) -> Result<Vec<Option<Tensor>>> {
        let (call, Case { queries, keys, heads, scale, mask, alignment, .. }) = (&self.call, &self.call.case);
        let (queries, keys) = (Some(queries), Some(keys));
        let (mask, alignment) = (*mask, *alignment);
        let options = ops::AttentionOptions { scale: *scale, mask, alignment, queries, keys, kind };
        let [q, k, v, y, dy] = [&call.q, &call.k, &call.v, &self.y, &self.dy].map(|values| values.on(device));
        let tensors = ops::AttentionBackwardTensors { q: &q, k: &k, v: &v, y: &y, dy: &dy };
        let found = ops::attention_backward(&tensors, *heads, &options, &self.wanted)?;
        Ok(vec![found.q, found.k, found.v])
    }
}

fn check(case: &Case, selection: Selection) -> Result<(), TestCaseError> {
    let backward = Backward::draw(case, selection);
    let expected = backward.expected();
    for kind in KINDS {
        check_gradients(&expected, |device| {
            // A form that the device does not have gives nothing to check.
            let kind = if kinds(device, case.head_channels).contains(&kind) { kind } else { KINDS[0] };
            backward.run(kind, device)
        })?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn equals_the_reference(case in case(40), selection in selection()) {
        check(&case, selection)?;
    }
}

proptest! {
    #![proptest_config(config(20))]

    #[test]
    fn equals_the_reference_over_many_tiles(case in case(200), selection in selection()) {
        check(&case, selection)?;
    }
}
