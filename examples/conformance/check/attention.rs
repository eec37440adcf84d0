use lightspan::ops::{self, AttentionBackwardTensors, AttentionKind, AttentionOptions};
use lightspan::problem::{AttentionBackwardProblem, AttentionProblem, AttentionWanted, Mask};
use lightspan::reference::{self, AttentionInputs, Estimate};
use lightspan::{Device, Error, Sequences, Tensor};

use super::inputs::{Array, Inputs, Types};
use super::{Gradient, Operator, Result};

pub(crate) struct Attention {
    problem: AttentionProblem,
    kind: AttentionKind,
    queries: Sequences,
    keys: Sequences,
    q: Array,
    k: Array,
    v: Array,
    /// What q was multiplied by.
    rescaled: f64,
}

impl Attention {
    pub(crate) fn read(inputs: &Inputs<'_>, kind: AttentionKind) -> Result<Self> {
        let fixture = inputs.fixture;
        let [batch, query_time, channels] = inputs.sizes("q")?;
        let [_, key_time, _] = inputs.sizes("k")?;
        let heads: usize = fixture.value("heads")?;
        if heads == 0 || !channels.is_multiple_of(heads) {
            return Err(Error::Heads { heads, channels }.into());
        }
        let (left, right) = (fixture.optional_value("window_left")?, fixture.optional_value("window_right")?);
        let right = if fixture.value("causal")? { Some(0) } else { right };
        let queries = Sequences::batch(batch, query_time)?;
        let keys = inputs.sequences("key_lengths", batch, key_time)?;
        let mut q = inputs.tokens("q", &[batch, query_time, channels])?;
        let scale: f64 = fixture.value("scale")?;
        let problem =
            AttentionProblem::new(queries.shape(), keys.shape(), heads, channels / heads, q.dtype())?
                .with_mask(Mask::local(left, right))
                .with_scale(scale as f32)?;
        // A problem has its scale in f32. What that rounds away goes into q, so that f64 is held to f64.
        let rounded = f64::from(problem.scale());
        let exact = inputs.types == Types::Exact && rounded != 0.0;
        let rescaled = if exact { scale / rounded } else { 1.0 };
        q.values.iter_mut().for_each(|q| *q *= rescaled);
        let shape = [batch, key_time, channels];
        let (k, v) = (inputs.tokens("k", &shape)?, inputs.tokens("v", &shape)?);
        Ok(Attention { problem, kind, queries, keys, q, k, v, rescaled })
    }
}

impl Attention {
    fn inputs(&self) -> AttentionInputs<'_> {
        AttentionInputs { q: &self.q.values, k: &self.k.values, v: &self.v.values }
    }

    fn options(&self) -> AttentionOptions<'_> {
        AttentionOptions {
            scale: Some(self.problem.scale()),
            mask: self.problem.mask(),
            alignment: self.problem.alignment(),
            queries: Some(&self.queries),
            keys: Some(&self.keys),
            kind: self.kind,
        }
    }

    /// The output of the forward pass, in its type.
    fn output(&self) -> Array {
        self.q.like(self.reference().iter().map(|y| y.value))
    }
}

impl Operator for Attention {
    fn shape(&self) -> &[usize] {
        &self.q.shape
    }

    fn reference(&self) -> Vec<Estimate> {
        reference::every_token(&self.queries, self.problem.channels(), |s, t| {
            reference::attention(&self.problem, &self.queries, &self.keys, self.inputs(), (s, t))
        })
    }

    fn run(&self, device: &Device) -> lightspan::Result<Tensor> {
        let (q, k, v) = (self.q.upload(device)?, self.k.upload(device)?, self.v.upload(device)?);
        ops::attention(&q, &k, &v, self.problem.heads(), &self.options())
    }

    fn gradients(&self, dy: &Array) -> Vec<Gradient> {
        let problem = AttentionBackwardProblem::new(self.problem, AttentionWanted::ALL);
        let (y, (queries, keys)) = (self.output().values, (&self.queries, &self.keys));
        let found = reference::attention_backward(&problem, queries, keys, self.inputs(), &y, &dy.values);
        let of_given = |dq: Estimate| Estimate { value: dq.value * self.rescaled, ..dq };
        vec![
            Gradient::of("dq", &self.q, found.q.into_iter().map(of_given).collect()),
            Gradient::of("dk", &self.k, found.k),
            Gradient::of("dv", &self.v, found.v),
        ]
    }

    fn run_backward(&self, device: &Device, dy: &Array) -> lightspan::Result<Vec<Tensor>> {
        let tensors = AttentionBackwardTensors {
            q: &self.q.upload(device)?,
            k: &self.k.upload(device)?,
            v: &self.v.upload(device)?,
            y: &self.output().upload(device)?,
            dy: &dy.upload(device)?,
        };
        let (heads, options) = (self.problem.heads(), self.options());
        let found = ops::attention_backward(&tensors, heads, &options, &AttentionWanted::ALL)?;
        Ok([found.q, found.k, found.v].into_iter().flatten().collect())
    }
}
