use crate::Result;
use crate::cuda::call::{Binder, Bound, Elements, ElementsMut, Rows, RowsMut};
use crate::cuda::gpu::Gpu;
use crate::cuda::limits::Limits;
use crate::cuda::linear::product::{
    ColumnSums, Form, Gate, Product, ProductBound, ProductPlaces, push_product, push_sums,
};
use crate::cuda::plan::{Launch, Place};
use crate::cuda::traffic::Traffic;
use crate::problem::LinearBackwardProblem;

/// The gradients of a linear layer, prepared: see [`LinearBackwardProblem`].
#[derive(Clone, Debug)]
pub struct LinearBackward {
    gpu: Gpu,
    problem: LinearBackwardProblem,
    parts: LinearParts,
}

/// What [`LinearBackward::launch`] reads and writes. Each gradient is given where it is wanted, and no other.
#[derive(Debug)]
pub struct LinearBackwardArgs<'a> {
    /// `[rows, in]`.
    pub x: Rows<'a>,
    /// W `[out, in]`.
    pub weight: Elements<'a>,
    /// The output of the forward pass `[rows, out]`, where there is an activation.
    pub y: Option<Rows<'a>>,
    /// `[rows, out]`.
    pub dy: Rows<'a>,
    /// `[rows, in]`, overwritten.
    pub dx: Option<RowsMut<'a>>,
    /// `[out, in]`, overwritten.
    pub dweight: Option<ElementsMut<'a>>,
    /// `[out]`, overwritten.
    pub dbias: Option<ElementsMut<'a>>,
}

impl LinearBackward {
    /// Plans the call and loads its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) where the device allows less than the problem needs, and errors of the
    /// driver.
    pub fn new(gpu: &Gpu, problem: LinearBackwardProblem) -> Result<Self> {
        let parts = LinearParts::of(&problem);
        for launch in plan(&problem, gpu.limits())? {
            gpu.kernel(&launch)?;
        }
        Ok(LinearBackward { gpu: gpu.clone(), problem, parts })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &LinearBackwardProblem {
        &self.problem
    }

    /// Numbers of scratch memory, in f32, that a call needs: sums over some of the rows.
    pub fn scratch_len(&self) -> u64 {
        self.parts.scratch_len(self.gpu.limits())
    }

    /// What a call reads and writes, as its plan predicts it: matrices whose rows all begin on a sector. Sums that cross
    /// from one launch to another are written and read.
    pub fn traffic(&self) -> Traffic {
        self.parts.traffic(self.gpu.limits())
    }

    /// Puts the call into the device's stream, with `scratch` of at least [`LinearBackward::scratch_len`] numbers of f32.
    /// Nothing is allocated on the device, and nothing waited for.
    ///
    /// # Errors
    ///
    /// For memory that is too short, of another type or on another device, a tensor that is missing or not part of the
    /// problem, too little scratch, and errors of the driver.
    pub fn launch(&self, args: LinearBackwardArgs<'_>, scratch: Option<ElementsMut<'_>>) -> Result<()> {
        let (forward, wanted) = (self.problem.forward(), self.problem.wanted());
        let (dtype, parameters) = (forward.dtype(), forward.parameters());
        let (rows, inputs, outputs) = (forward.rows(), forward.inputs(), forward.outputs());
        let binder = Binder { gpu: &self.gpu };
        let x = binder.rows("x", args.x, dtype, [rows, inputs])?;
        let weight =
            binder.elements("weight", args.weight, parameters, outputs * inputs)?.with_stride(inputs);
        let y = binder.optional_rows("y", args.y, self.problem.needs_output(), dtype, [rows, outputs])?;
        let dy = binder.rows("dy", args.dy, dtype, [rows, outputs])?;
        let gradients = self.problem.parameters();
        let dx = binder.wanted_rows("dx", args.dx, wanted.x, dtype, [rows, inputs])?;
        let dweight =
            binder.wanted_elements("dweight", args.dweight, wanted.weight, gradients, outputs * inputs)?;
        let dweight = dweight.with_stride(inputs);
        let dbias = binder.wanted_elements("dbias", args.dbias, wanted.bias, gradients, outputs)?;
        let scratch = binder.scratch(scratch, self.scratch_len())?;
        let nothing = &Bound::nothing();
        let product = |b, c| ProductBound {
            a: &dy,
            gate: &y,
            b,
            addend: nothing,
            factor: nothing,
            list: nothing,
            c,
            scratch: &scratch,
        };
        if let Some(of_x) = &self.parts.x {
            push_product(binder, of_x, &product(&weight, &dx))?;
        }
        if let Some(of_weight) = &self.parts.weight {
            push_product(binder, of_weight, &product(&x, &dweight))?;
        }
        if let Some(of_bias) = &self.parts.bias {
            push_sums(binder, of_bias, [&dy, &y, nothing, &dbias, &scratch])?;
        }
        Ok(())
    }
}

/// The gradients that are wanted.
#[derive(Clone, Copy, Debug)]
struct LinearParts {
    x: Option<Product>,
    weight: Option<Product>,
    bias: Option<ColumnSums>,
}

impl LinearParts {
    fn of(problem: &LinearBackwardProblem) -> Self {
        let (forward, wanted) = (problem.forward(), problem.wanted());
        let (dtype, parameters) = (forward.dtype(), forward.parameters());
        let (rows, inputs, outputs) = (forward.rows(), forward.inputs(), forward.outputs());
        let gate = problem.needs_output().then_some(Gate::Relu(dtype));
        let x = Product::new(Form::Plain, [rows, inputs, outputs], [dtype, parameters, dtype]);
        let types = [dtype, dtype, problem.parameters()];
        let weight = Product::new(Form::Transposed, [outputs, inputs, rows], types);
        let sum = problem.parameters();
        let bias = ColumnSums { rows, columns: outputs, dtype, gate, sum, tokens: None };
        LinearParts {
            x: wanted.x.then_some(Product { gate, ..x }),
            weight: wanted.weight.then_some(Product { gate, ..weight }),
            bias: wanted.bias.then_some(bias),
        }
    }

    fn scratch_len(&self, limits: &Limits) -> u64 {
        // They follow one another, and share it.
        let weight = self.weight.map_or(0, |weight| weight.scratch_len(limits));
        weight.max(self.bias.map_or(0, |bias| bias.scratch_len(limits)))
    }

    fn traffic(&self, limits: &Limits) -> Traffic {
        let products = [self.x, self.weight].into_iter().flatten().map(|product| product.traffic(limits));
        products.chain(self.bias.map(|bias| bias.traffic(limits))).sum()
    }
}

/// All launches of a call on matrices that lie without gaps.
pub(crate) fn plan(problem: &LinearBackwardProblem, limits: &Limits) -> Result<Vec<Launch>> {
    let forward = problem.forward();
    let [inputs, outputs] = [forward.inputs(), forward.outputs()].map(Place::contiguous);
    let parts = LinearParts::of(problem);
    let places = ProductPlaces {
        a: outputs,
        gate: outputs,
        b: inputs,
        addend: inputs,
        factor: inputs,
        c: inputs,
        scratch: inputs,
    };
    let mut launches = vec![];
    for product in [parts.x, parts.weight].into_iter().flatten() {
        launches.extend(product.plan(&places, limits)?);
    }
    if let Some(bias) = parts.bias {
        launches.extend(bias.plan([outputs; 2], limits)?);
    }
    Ok(launches)
}
