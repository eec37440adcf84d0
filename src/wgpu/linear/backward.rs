use ::wgpu::Buffer;

use crate::Result;
use crate::problem::LinearBackwardProblem;
use crate::wgpu::call::{Binder, Call, Elements, Rows};
use crate::wgpu::gpu::Gpu;
use crate::wgpu::limits::Limits;
use crate::wgpu::linear::products::{Factor, Flow, Incoming, Matrix, Operand, Products};
use crate::wgpu::plan::Launch;

/// The gradients of a linear layer, prepared: see [`LinearBackwardProblem`].
#[derive(Clone, Debug)]
pub struct LinearBackward {
    gpu: Gpu,
    problem: LinearBackwardProblem,
}

/// What [`LinearBackward::bind`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct LinearBackwardArgs<'a> {
    /// `[rows, in]`.
    pub x: Rows<'a>,
    /// W `[out, in]`.
    pub weight: Elements<'a>,
    /// `[rows, out]`, the output of the forward pass, where the problem needs it.
    pub y: Option<Rows<'a>>,
    /// `[rows, out]`.
    pub dy: Rows<'a>,
    /// `[rows, in]`, overwritten; where it is wanted.
    pub dx: Option<Rows<'a>>,
    /// `[out, in]`, overwritten; where it is wanted.
    pub dweight: Option<Elements<'a>>,
    /// `[out]`, overwritten; where it is wanted.
    pub dbias: Option<Elements<'a>>,
}

impl LinearBackward {
    /// Plans the call and compiles its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: LinearBackwardProblem) -> Result<Self> {
        let forward = problem.forward();
        let (rows, inputs, outputs) = (forward.rows(), forward.inputs(), forward.outputs());
        gpu.limits().check_tensors(&[
            ("x", &[rows, inputs], forward.dtype()),
            ("weight", &[outputs, inputs], forward.parameters()),
            ("dy", &[rows, outputs], forward.dtype()),
            ("dweight", &[outputs, inputs], problem.parameters()),
        ])?;
        gpu.limits().check_binding("scratch", scratch_len(&problem).saturating_mul(4))?;
        for launch in plan(&problem, gpu.limits())? {
            gpu.pipeline(&launch.kernel)?;
        }
        Ok(LinearBackward { gpu: gpu.clone(), problem })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LinearBackwardProblem {
        &self.problem
    }

    /// Numbers (of 4 bytes) of scratch memory that a call needs, for partial sums.
    pub fn scratch_len(&self) -> u64 {
        scratch_len(&self.problem)
    }

    /// A call on these buffers, with `scratch` of at least [`LinearBackward::scratch_len`] numbers.
    ///
    /// # Errors
    ///
    /// For a buffer that is too short or was made without the usage `STORAGE`, an output in the buffer of an input, an
    /// input or output that is missing or not part of the problem, too little scratch, and errors of the driver.
    pub fn bind(&self, args: LinearBackwardArgs<'_>, scratch: Option<&Buffer>) -> Result<Call> {
        let LinearBackwardArgs { x, weight, y, dy, dx, dweight, dbias } = args;
        let (problem, forward, wanted) = (&self.problem, self.problem.forward(), self.problem.wanted());
        let (rows, inputs, outputs) = (forward.rows(), forward.inputs(), forward.outputs());
        let (dtype, parameters, gradients) = (forward.dtype(), forward.parameters(), problem.parameters());
        let binder = Binder { gpu: &self.gpu };
        let x = binder.rows("x", x, dtype, rows, inputs)?;
        let weight = binder.elements("weight", weight, parameters, outputs * inputs)?.as_rows(inputs);
        let y = binder.optional_rows("y", y, problem.needs_output(), dtype, rows, outputs)?;
        let dy = binder.rows("dy", dy, dtype, rows, outputs)?;
        let dx = binder.optional_rows("dx", dx, wanted.x, dtype, rows, inputs)?;
        let dweight = binder.optional("dweight", dweight, wanted.weight, gradients, outputs * inputs)?;
        let dbias = binder.optional("dbias", dbias, wanted.bias, gradients, outputs)?;
        let partial = binder.scratch(scratch, self.scratch_len())?;
        let factor = problem.needs_output().then_some(y);
        let flow = Flow { dy, factor, sequences: binder.nothing("sequences") };
        let (gpu, products) = (&self.gpu, products(problem));
        let mut call = Call::empty();
        if wanted.x {
            let (weight, dx) = (Operand::new(weight, parameters), Operand::new(dx, dtype));
            products.push_input(&mut call, gpu, flow, weight, None, dx)?;
        }
        if wanted.weight {
            let (x, dweight) = (Operand::new(x, dtype), Operand::new(dweight, gradients));
            products.push_weight(&mut call, gpu, flow, x, partial, dweight)?;
        }
        if wanted.bias {
            products.push_bias(&mut call, gpu, flow, partial, Operand::new(dbias, gradients))?;
        }
        Ok(call)
    }
}

fn products(problem: &LinearBackwardProblem) -> Products {
    let forward = problem.forward();
    let factor = problem.needs_output().then_some(Factor::Relu(forward.dtype()));
    let incoming = Incoming { dy: forward.dtype(), factor };
    Products::new([forward.rows(), forward.outputs(), forward.inputs()], incoming, None)
}

pub(crate) fn scratch_len(problem: &LinearBackwardProblem) -> u64 {
    let (wanted, products) = (problem.wanted(), products(problem));
    let weight = if wanted.weight { products.weight_scratch() } else { 0 };
    weight.max(if wanted.bias { products.bias_scratch() } else { 0 })
}

/// The dispatches on contiguous tensors: one for each product, and one for each sum of partial sums.
pub(crate) fn plan(problem: &LinearBackwardProblem, limits: &Limits) -> Result<Vec<Launch>> {
    let (forward, wanted, products) = (problem.forward(), problem.wanted(), products(problem));
    let flow = products.contiguous();
    let x = Matrix::contiguous(forward.dtype(), forward.inputs());
    let gradients = Matrix::contiguous(problem.parameters(), forward.inputs());
    let mut launches = vec![];
    if wanted.x {
        let weight = Matrix::contiguous(forward.parameters(), forward.inputs());
        launches.extend(products.plan_input(flow, weight, None, x, limits)?);
    }
    if wanted.weight {
        launches.extend(products.plan_weight(flow, x, 0, gradients, limits)?);
    }
    if wanted.bias {
        launches.extend(products.plan_bias(flow, 0, gradients, limits)?);
    }
    Ok(launches)
}
