mod plan;
mod traffic;

use crate::cuda::call::{Binder, Bound, Elements, ElementsMut, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::plan::DropoutParams;
use crate::cuda::sequences::DeviceSequences;
use crate::cuda::traffic::Traffic;
use crate::gpu::listed;
use crate::problem::LightConvBackwardProblem;
use crate::{Result, Sequences};

pub(crate) use plan::{BackwardPlaces, plan};

/// The backward pass of a light convolution, prepared: see [`LightConvBackwardProblem`].
#[derive(Clone, Debug)]
pub struct LightConvBackward {
    gpu: Gpu,
    problem: LightConvBackwardProblem,
}

/// What [`LightConvBackward::launch`] reads and writes: the gradients that the problem wants, and no others.
#[derive(Debug)]
pub struct LightConvBackwardArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[H, K]`, before normalisation.
    pub weight: Elements<'a>,
    /// That of the forward pass, where weights are dropped.
    pub seed: Option<u64>,
    /// `[tokens, C]`.
    pub dy: Rows<'a>,
    /// `[tokens, C]`, overwritten; zero in the padding.
    pub dx: Option<RowsMut<'a>>,
    /// `[H, K]`, overwritten.
    pub dweight: Option<ElementsMut<'a>>,
    /// `[C]`, overwritten.
    pub dbias: Option<ElementsMut<'a>>,
}

impl LightConvBackward {
    /// Plans the call and loads its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: LightConvBackwardProblem) -> Result<Self> {
        let conv = problem.forward().convolution();
        let places = BackwardPlaces::contiguous(conv.channels());
        let dropout = DropoutParams::default();
        for launch in plan(&problem, dropout, &places, listed(conv.sequences()), gpu.limits())?.launches() {
            gpu.kernel(launch)?;
        }
        Ok(LightConvBackward { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LightConvBackwardProblem {
        &self.problem
    }

    /// Numbers of scratch memory, in f32, that a call needs: sums of some tokens each.
    pub fn scratch_len(&self) -> u64 {
        plan::scratch_len(&self.problem, self.gpu.limits())
    }

    /// What a call reads and writes, as its plan predicts it: tokens that lie without gaps, and begin on a sector, as do
    /// all heads. Sums that cross from one launch to another are written and read. What a softmax over the taps in range
    /// takes at the ends of sequences is left out.
    ///
    /// # Errors
    ///
    /// [`Error::Sequences`](crate::Error::Sequences) for sequences of another shape than the problem's.
    pub fn traffic(&self, sequences: &Sequences) -> Result<Traffic> {
        sequences.check(self.problem.forward().convolution().sequences())?;
        traffic::traffic(&self.problem, sequences, self.gpu.limits())
    }

    /// Puts the call into the device's stream, with `scratch` of at least [`LightConvBackward::scratch_len`] numbers of f32.
    /// Nothing is allocated on the device, and nothing waited for. The same call gives the same bits.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, sequences of another shape, a gradient that is
    /// missing or not wanted, too little scratch, and errors of the driver.
    pub fn launch(&self, args: LightConvBackwardArgs<'_>, scratch: Option<ElementsMut<'_>>) -> Result<()> {
        let LightConvBackwardArgs { sequences, x, weight, seed, dy, dx, dweight, dbias } = args;
        let (conv, wanted) = (self.problem.forward().convolution(), self.problem.wanted());
        let (dtype, parameters, channels) = (conv.dtype(), self.problem.parameters(), conv.channels());
        let binder = Binder { gpu: &self.gpu };
        let list = binder.sequences(sequences, conv)?;
        let rows = [conv.sequences().tokens(), channels];
        let x = binder.rows("x", x, dtype, rows)?;
        let len = self.problem.forward().weight_shape().iter().product();
        let weight = binder.elements("weight", weight, conv.parameters(), len)?;
        let dropout = binder.dropout(conv, seed)?;
        let dy = binder.rows("dy", dy, dtype, rows)?;
        let dx = binder.wanted_rows("dx", dx, wanted.x, dtype, rows)?;
        let dweight = binder.wanted_elements("dweight", dweight, wanted.weight, parameters, len)?;
        let dbias = binder.wanted_elements("dbias", dbias, wanted.bias, parameters, channels)?;
        let scratch = binder.scratch(scratch, self.scratch_len())?;
        let places = BackwardPlaces { x: x.place, dy: dy.place, dx: dx.place };
        let plan = plan(&self.problem, dropout, &places, sequences.is_listed(), self.gpu.limits())?;
        if let Some(launch) = &plan.ends {
            binder.launch(launch, [&x, &dy, &weight, &list, &scratch])?;
        }
        if let Some(launch) = &plan.x {
            // In the place of a history it has what the ends left.
            binder.launch(launch, [&dy, &weight, &Bound::nothing(), &scratch, &list, &dx])?;
        }
        if let Some(launch) = &plan.sums {
            binder.launch(launch, [&x, &dy, &list, &scratch])?;
        }
        match &plan.parameters {
            Some(launch) => binder.launch(launch, [&weight, &list, &scratch, &dweight, &dbias]),
            None => Ok(()),
        }
    }
}
