//! The plan of `kernels/linear.cu`: x and y in f32, W of any type.

use bytemuck::{Pod, Zeroable};

use crate::cuda::limits::Limits;
use crate::cuda::linear::{Kernel, Places, Types, activation, quads};
use crate::cuda::modules;
use crate::cuda::plan::{Launch, count, unit};
use crate::problem::LinearProblem;
use crate::{DType, Result};

/// The structure `Params` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x_stride: u64,
    residual_stride: u64,
    y_stride: u64,
    rows: u32,
    inputs: u32,
    outputs: u32,
    groups: u32,
    group_columns: u32,
    columns: u32,
    activation: u32,
    has_bias: u32,
    has_residual: u32,
    x_unit: u32,
    weight_unit: u32,
    weight_type: u32,
    quads: u32,
    unused: u32,
}

pub(crate) fn kernel(problem: &LinearProblem, limits: &Limits) -> Kernel {
    let big = Kernel { entry: "linear", threads: 256, tile: [128; 2] };
    let small = Kernel { entry: "linear_small", threads: 256, tile: [64; 2] };
    Kernel::choose(big, small, problem, limits)
}

pub(crate) fn plan(
    problem: &LinearProblem,
    places: &Places,
    types: Types,
    limits: &Limits,
) -> Result<Launch> {
    let kernel = kernel(problem, limits);
    let (inputs, outputs) = (problem.group_inputs(), problem.group_outputs());
    let across = kernel.group_columns(problem);
    let params = Params {
        x_stride: places.x.stride as u64,
        residual_stride: places.residual.stride as u64,
        y_stride: places.y.stride as u64,
        rows: count("x", problem.rows())?,
        inputs: count("x", inputs)?,
        outputs: count("y", outputs)?,
        groups: count("y", problem.groups())?,
        group_columns: count("y", across)?,
        columns: count("y", across.saturating_mul(problem.groups()))?,
        activation: activation(problem.activation()),
        has_bias: problem.has_bias().into(),
        has_residual: problem.has_residual().into(),
        x_unit: unit(types.x, inputs, &[places.x]),
        weight_unit: unit(types.parameters, inputs, &[places.weight]),
        weight_type: match types.parameters {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::BF16 => 2,
        },
        quads: quads(types.y, outputs, places),
        unused: 0,
    };
    let module = modules::linear(types.x, types.parameters);
    Launch::new((module, kernel.entry), kernel.tiles(problem), kernel.threads, &params, limits)
}
