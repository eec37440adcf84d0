use criterion::Criterion;
use lightspan::problem::{Activation, LinearProblem};
use lightspan::{DType, Device, Result, Tensor, ops};
use rayon::prelude::*;

use crate::support::{
    CHANNELS, Group, LENGTHS, Line, MANY_TOKENS, TOKENS, measure, measure_copy, noise, tensor,
};
use crate::unfused::{assert_close, product};

/// A linear layer from C to C channels. It knows nothing of sequences, so here the lengths are rows in all.
pub(crate) fn by_rows(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "linear_by_rows", device);
    for rows in LENGTHS {
        measure_copy(&mut group, rows, rows * CHANNELS * DType::F32.size());
        let problem = Form::Relu.problem(rows, CHANNELS, DType::F32)?;
        measure_fused(&mut group, Line::new("f32", rows), problem)?;
        measure_unfused(&mut group, Line::new("f32 unfused", rows), Form::Relu, problem);
    }
    group.finish();
    Ok(())
}

/// What a linear layer does besides its product, and the product of the same weight alone: what one takes longer than the
/// other is what the rest costs.
pub(crate) fn forms(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "linear_forms", device);
    measure_forms(&mut group, (TOKENS, CHANNELS), DType::F32)?;
    group.finish();
    Ok(())
}

/// As many tokens as fill any GPU, of as many channels as a model has.
pub(crate) fn forms_large(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "linear_forms_large", device);
    for dtype in [DType::F32, DType::BF16] {
        measure_forms(&mut group, (MANY_TOKENS, 1024), dtype)?;
    }
    group.finish();
    Ok(())
}

fn measure_forms(group: &mut Group<'_>, (rows, channels): (usize, usize), dtype: DType) -> Result<()> {
    measure_copy(group, dtype, rows * channels * dtype.size());
    for form in Form::ALL {
        let (name, problem) = (form.name(), form.problem(rows, channels, dtype)?);
        measure_fused(group, Line::new(name, dtype), problem)?;
        let alone = LinearProblem::new(rows, channels, problem.weight_rows(), dtype)?;
        measure_fused(
            group,
            Line::new(format!("{name} product"), dtype),
            alone.with_groups(problem.groups())?,
        )?;
        if form.has_unfused() {
            measure_unfused(group, Line::new(format!("{name} unfused"), dtype), form, problem);
        }
    }
    Ok(())
}

/// A linear layer from C to C channels, all but the last with a bias.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Relu,
    Gelu,
    GeluTanh,
    /// From C to two times C sums.
    Glu,
    /// No activation, and a residual.
    Residual,
    /// Two groups.
    Grouped,
}

impl Form {
    const ALL: [Form; 6] = [Form::Relu, Form::Gelu, Form::GeluTanh, Form::Glu, Form::Residual, Form::Grouped];

    const fn name(self) -> &'static str {
        match self {
            Form::Relu => "relu",
            Form::Gelu => "gelu",
            Form::GeluTanh => "gelu_tanh",
            Form::Glu => "glu",
            Form::Residual => "residual",
            Form::Grouped => "grouped",
        }
    }

    fn problem(self, rows: usize, channels: usize, dtype: DType) -> Result<LinearProblem> {
        let problem = LinearProblem::new(rows, channels, channels, dtype)?.with_bias(true);
        match self {
            Form::Relu => problem.with_activation(Activation::Relu),
            Form::Gelu => problem.with_activation(Activation::Gelu),
            Form::GeluTanh => problem.with_activation(Activation::GeluTanh),
            Form::Glu => problem.with_activation(Activation::Glu),
            Form::Residual => Ok(problem.with_residual(true)),
            Form::Grouped => problem.with_groups(2),
        }
    }

    /// Whether it is written here in pieces. There is no error function to make the exact GELU of, and one product of all
    /// rows makes no groups.
    const fn has_unfused(self) -> bool {
        !matches!(self, Form::Gelu | Form::Grouped)
    }
}

/// A product with all that its problem has besides, on buffers from the device.
pub(crate) fn measure_fused(group: &mut Group<'_>, line: Line, problem: LinearProblem) -> Result<()> {
    let (device, dtype) = (group.device().clone(), problem.dtype());
    let weight = tensor(&[problem.weight_rows(), problem.group_inputs()], dtype, &device)?;
    let bias = problem.has_bias().then(|| tensor(&[problem.weight_rows()], dtype, &device)).transpose()?;
    let residuals = if problem.has_residual() { problem.rows() } else { 0 };
    let make = || -> Result<[Tensor; 3]> {
        let x = tensor(&[problem.rows(), problem.inputs()], dtype, &device)?;
        let residual = tensor(&[residuals, problem.outputs()], dtype, &device)?;
        Ok([x, residual, Tensor::zeros(&[problem.rows(), problem.outputs()], dtype, &device)?])
    };
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        use crate::gpu::{elements, measure, rows};
        use lightspan::wgpu::{Linear, LinearArgs};
        let operator = Linear::new(gpu, problem).map(|operator| (operator, [0, 0]));
        return measure(
            group,
            gpu,
            (line, problem.bytes()),
            operator,
            make,
            |operator, [x, residual, y], _| {
                operator.bind(LinearArgs {
                    x: rows(x),
                    weight: elements(&weight),
                    bias: bias.as_ref().map(elements),
                    residual: problem.has_residual().then(|| rows(residual)),
                    y: rows(y),
                })
            },
        );
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        use crate::cuda::{elements, measure, rows, rows_mut};
        use lightspan::cuda::{Linear, LinearArgs};
        let operator = Linear::new(gpu, problem);
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, [x, residual, y]| {
            operator.launch(LinearArgs {
                x: rows(x),
                weight: elements(&weight),
                bias: bias.as_ref().map(elements),
                residual: problem.has_residual().then(|| rows(residual)),
                y: rows_mut(y),
            })
        });
    }
    measure(group, line, problem.bytes(), make, |[x, residual, y]| {
        let options = ops::LinearOptions {
            bias: bias.as_ref(),
            activation: problem.activation(),
            residual: problem.has_residual().then_some(&*residual),
            groups: problem.groups(),
        };
        ops::linear_into(y, x, &weight, &options)
    });
    Ok(())
}

/// The same in pieces: the product, then the bias, then the activation, then the residual, each as a pass of its own.
fn measure_unfused(group: &mut Group<'_>, line: Line, form: Form, problem: LinearProblem) {
    if !group.has_unfused() {
        return;
    }
    let weight = noise(problem.weight_rows() * problem.inputs());
    let bias = noise(problem.weight_rows());
    let mut pieces = Pieces::default();
    let [inputs, outputs] = [problem.inputs(), problem.outputs()].map(|width| problem.rows() * width);
    let make = || Ok([noise(inputs), noise(outputs), noise(outputs)]);
    measure(group, line, problem.bytes(), make, |[x, residual, y]| {
        pieces.run(form, [x, &weight, &bias, residual], y)
    });
}

/// What goes from one piece to the next.
#[derive(Default)]
struct Pieces {
    /// `[rows, out]`, or `[rows, 2 out]` before a GLU.
    sums: Vec<f32>,
    scratch: Vec<f32>,
}

impl Pieces {
    fn run(&mut self, form: Form, [x, weight, bias, residual]: [&[f32]; 4], y: &mut Vec<f32>) -> Result<()> {
        let width = bias.len();
        let sums = if form == Form::Glu { &mut self.sums } else { &mut *y };
        let inputs = weight.len() / width;
        product(x, weight, inputs, sums, &mut self.scratch)?;
        let each = |sums: &mut [f32], change: fn(f32) -> f32| {
            sums.par_chunks_mut(width).for_each(|row| row.iter_mut().for_each(|y| *y = change(*y)));
        };
        let rows = sums.par_chunks_mut(width);
        rows.for_each(|row| row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias));
        match form {
            Form::Relu => each(y, |y| y.max(0.0)),
            Form::GeluTanh => each(y, gelu_tanh),
            Form::Glu => {
                let rows = y.par_chunks_mut(width / 2).zip(self.sums.par_chunks(width));
                rows.for_each(|(y, sums)| {
                    let (a, b) = sums.split_at(width / 2);
                    y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = a / (1.0 + (-b).exp()));
                });
            }
            Form::Residual => {
                let rows = y.par_chunks_mut(width).zip(residual.par_chunks(width));
                rows.for_each(|(y, x)| y.iter_mut().zip(x).for_each(|(y, x)| *y += x));
            }
            Form::Gelu | Form::Grouped => unreachable!("{form:?} is not written in pieces"),
        }
        Ok(())
    }
}

fn gelu_tanh(x: f32) -> f32 {
    0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044715 * x * x * x)).tanh())
}

/// Panics unless the pieces compute what the operator does.
pub(crate) fn check_against_operator() -> Result<()> {
    let (rows, channels, device) = (7, 40, Device::cpu());
    let x = noise(rows * channels);
    let residual: Vec<f32> = x.iter().map(|x| x * x).collect();
    let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &device);
    let tokens = [rows, channels];
    for form in Form::ALL.into_iter().filter(|form| form.has_unfused()) {
        let problem = form.problem(rows, channels, DType::F32)?;
        let outputs = problem.weight_rows();
        let (weight, bias) = (noise(outputs * channels), noise(outputs));
        let mut y = vec![0.0; rows * channels];
        Pieces::default().run(form, [&x, &weight, &bias, &residual], &mut y)?;
        let (bias, residual) = (tensor(&bias, &[outputs])?, tensor(&residual, &tokens)?);
        let options = ops::LinearOptions {
            bias: Some(&bias),
            activation: problem.activation(),
            residual: problem.has_residual().then_some(&residual),
            groups: 1,
        };
        let weight = tensor(&weight, &[outputs, channels])?;
        assert_close(&y, &ops::linear(&tensor(&x, &tokens)?, &weight, &options)?)?;
    }
    Ok(())
}
