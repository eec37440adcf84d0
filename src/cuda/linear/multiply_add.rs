//! The plan of `kernels/linear.cu`: f32.

use bytemuck::{Pod, Zeroable};

use crate::Result;
use crate::cuda::limits::Limits;
use crate::cuda::linear::{Kernel, Places};
use crate::cuda::modules;
use crate::cuda::plan::{Launch, count, unit};
use crate::problem::{Activation, LinearProblem};

/// The structure `Params` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x_stride: u64,
    y_stride: u64,
    rows: u32,
    inputs: u32,
    outputs: u32,
    columns: u32,
    activation: u32,
    has_bias: u32,
    load_unit: u32,
    unused: u32,
}

pub(crate) fn kernel(problem: &LinearProblem, limits: &Limits) -> Kernel {
    let big = Kernel { entry: "linear", threads: 256, tile: [128; 2] };
    let small = Kernel { entry: "linear_small", threads: 256, tile: [64; 2] };
    Kernel::choose(big, small, problem, limits)
}

pub(crate) fn plan(problem: &LinearProblem, places: &Places, limits: &Limits) -> Result<Launch> {
    let kernel = kernel(problem, limits);
    let params = Params {
        x_stride: places.x.stride as u64,
        y_stride: places.y.stride as u64,
        rows: count("x", problem.rows())?,
        inputs: count("x", problem.inputs())?,
        outputs: count("y", problem.outputs())?,
        columns: count("y", problem.outputs().div_ceil(kernel.tile[1]))?,
        activation: (problem.activation() == Activation::Relu).into(),
        has_bias: problem.has_bias().into(),
        load_unit: unit(problem.dtype(), problem.inputs(), &[places.x, places.weight]),
        unused: 0,
    };
    let module = modules::linear(problem.dtype(), problem.parameters());
    Launch::new((module, kernel.entry), kernel.tiles(problem), kernel.threads, &params, limits)
}
