mod plan;

use ::wgpu::Buffer;

use crate::Result;
use crate::gpu::listed;
use crate::problem::LightConvBackwardProblem;
use crate::wgpu::call::{Binder, Call, Elements, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::linear::products::{Flow, Incoming, Matrix, Operand, Products};
use crate::wgpu::sequences::DeviceSequences;

#[cfg(test)]
pub(crate) use plan::kernels;
pub(crate) use plan::{Launches, Places, plan, scratch_len};

/// The gradients of a light convolution, prepared: see [`LightConvBackwardProblem`].
#[derive(Clone, Debug)]
pub struct LightConvBackward {
    gpu: Gpu,
    problem: LightConvBackwardProblem,
}

/// What [`LightConvBackward::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct LightConvBackwardArgs<'a> {
    /// The sequences, of the problem's shape.
    pub sequences: &'a DeviceSequences,
    /// `[tokens, C]`.
    pub x: Rows<'a>,
    /// `[H, K]`, before normalisation.
    pub weight: Elements<'a>,
    /// What decided which weights were dropped, where the problem has dropout.
    pub seed: Option<u64>,
    /// `[tokens, C]`.
    pub dy: Rows<'a>,
    /// `[tokens, C]`, overwritten; where it is wanted.
    pub dx: Option<Rows<'a>>,
    /// `[H, K]`, overwritten; where it is wanted.
    pub dweight: Option<Elements<'a>>,
    /// `[C]`, overwritten; where it is wanted.
    pub dbias: Option<Elements<'a>>,
}

impl LightConvBackward {
    /// Plans the call and compiles its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: LightConvBackwardProblem) -> Result<Self> {
        let forward = problem.forward();
        let conv = forward.convolution();
        gpu.limits().check_convolution(conv, ["x", "history", "dy"])?;
        gpu.limits().check_tensors(&[
            ("weight", &forward.weight_shape(), conv.parameters()),
            ("dweight", &forward.weight_shape(), problem.parameters()),
        ])?;
        let places = Places::contiguous(&problem);
        for len in scratch_len(&problem)? {
            gpu.limits().check_binding("scratch", len.saturating_mul(4))?;
        }
        let launches = plan(&problem, &places, listed(conv.sequences()), gpu.limits())?;
        for launch in launches.all() {
            gpu.pipeline(&launch.kernel)?;
        }
        if problem.wanted().bias {
            let products = bias_products(&problem);
            let y = Matrix::contiguous(problem.parameters(), conv.channels());
            for launch in products.plan_bias(products.contiguous(), 0, y, gpu.limits())? {
                gpu.pipeline(&launch.kernel)?;
            }
        }
        Ok(LightConvBackward { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LightConvBackwardProblem {
        &self.problem
    }

    /// Numbers (of 4 bytes) of scratch memory that a call needs in each of two buffers: partial sums, and the statistics of
    /// each token's softmax (none but with a softmax over the taps in range).
    pub fn scratch_len(&self) -> [u64; 2] {
        // Checked when the operator was made.
        scratch_len(&self.problem).unwrap_or([u64::MAX; 2])
    }

    /// A call on these buffers, with `scratch` of at least [`LightConvBackward::scratch_len`] numbers each.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input,
    /// sequences of another shape, an input or output that is missing or not part of the problem, too little scratch, and
    /// errors of the driver.
    pub fn bind(&self, args: LightConvBackwardArgs<'_>, scratch: [Option<&Buffer>; 2]) -> Result<Call> {
        let (problem, wanted) = (&self.problem, self.problem.wanted());
        let (forward, gradients) = (problem.forward(), problem.parameters());
        let conv = forward.convolution();
        let LightConvBackwardArgs { sequences, x, weight, seed, dy, dx, dweight, dbias } = args;
        let (binder, gpu) = (Binder { gpu: &self.gpu }, &self.gpu);
        let (tokens, channels, dtype) = (conv.sequences().tokens(), conv.channels(), conv.dtype());
        let numbers = forward.weight_shape().into_iter().product();
        sequences.check(gpu, conv.sequences())?;
        sequences.check_begins()?;
        let seed = binder.seed(conv, seed)?;
        let x = binder.rows("x", x, dtype, tokens, channels)?;
        let weight = binder.elements("weight", weight, conv.parameters(), numbers)?;
        let dy = binder.rows("dy", dy, dtype, tokens, channels)?;
        let dx = binder.optional_rows("dx", dx, wanted.x, dtype, tokens, channels)?;
        let dweight = binder.optional("dweight", dweight, wanted.weight, gradients, numbers)?;
        let dbias = binder.optional("dbias", dbias, wanted.bias, gradients, channels)?;
        let [sums, statistics] = self.scratch_len();
        let sums = binder.scratch(scratch[0], sums)?;
        let statistics = binder.scratch(scratch[1], statistics)?;
        let places = Places {
            x: x.place,
            dy: dy.place,
            dx: dx.place,
            weight: weight.place.offset,
            dweight: dweight.place.offset,
            sums: sums.place.offset,
            statistics: statistics.place.offset,
            seed,
        };
        let list = binder.whole("sequences", sequences.list());
        let Launches { statistics: measure, x: to_x, parts, edges, weight: to_weight } =
            plan(problem, &places, sequences.listed(), gpu.limits())?;
        let nothing = binder.nothing("nothing");
        let mut call = Call::empty();
        if let Some(launch) = measure {
            call.push(gpu, &launch, statistics, &[list, nothing, nothing, weight])?;
        }
        if let Some(launch) = to_x {
            // The kernel of weights that are the same for all tokens has no statistics.
            let inputs = [list, dy, nothing, weight, nothing, statistics, nothing];
            call.push(gpu, &launch, dx, &inputs[..launch.kernel.inputs as usize])?;
        }
        if let Some(launch) = parts {
            call.push(gpu, &launch, sums, &[list, x, nothing, nothing, dy])?;
        }
        if let Some(launch) = edges {
            call.push(gpu, &launch, sums, &[list, x, nothing, weight, dy, statistics])?;
        }
        if let Some(launch) = to_weight {
            call.push(gpu, &launch, dweight, &[weight, sums])?;
        }
        if wanted.bias {
            let flow = Flow { dy, factor: None, sequences: list };
            let products = bias_products(problem);
            products.push_bias(&mut call, gpu, flow, sums, Operand::new(dbias, gradients))?;
        }
        Ok(call)
    }
}

/// The column sums of dy.
fn bias_products(problem: &LightConvBackwardProblem) -> Products {
    let conv = problem.forward().convolution();
    let sizes = [conv.sequences().tokens(), conv.channels(), conv.channels()];
    Products::new(sizes, Incoming::plain(conv.dtype()), Some(conv.sequences()))
}
