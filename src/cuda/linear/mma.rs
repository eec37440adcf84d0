//! The plan of `kernels/linear_mma.cu`: f16 and bf16.

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
    y_unit: u32,
    quads: u32,
    wide: u32,
}

pub(crate) fn kernel(problem: &LinearProblem, types: Types, limits: &Limits) -> Kernel {
    // Weights in f32 take twice the room.
    let columns = if types.parameters == DType::F32 { 64 } else { 128 };
    let big = Kernel { entry: "linear", threads: 128, tile: [128, columns] };
    let small = Kernel { entry: "linear_small", threads: 128, tile: [64, 64] };
    Kernel::choose(big, small, problem, limits)
}

pub(crate) fn plan(
    problem: &LinearProblem,
    places: &Places,
    types: Types,
    limits: &Limits,
) -> Result<Launch> {
    let kernel = kernel(problem, types, limits);
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
        y_unit: unit(types.y, outputs, &[places.y]),
        quads: quads(types.y, outputs, places),
        wide: (types.y == DType::F32).into(),
    };
    let module = modules::linear(types.x, types.parameters);
    Launch::new((module, kernel.entry), kernel.tiles(problem), kernel.threads, &params, limits)
}
