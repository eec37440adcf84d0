use criterion::Criterion;
use lightspan::problem::{DynamicConvProblem, LinearProblem};
use lightspan::{DType, Device, Result, Tensor, Window, ops};

use crate::light_conv;
use crate::linear;
use crate::support::{
    CHANNELS, Group, Line, Size, TIME, TOKENS, WIDTH, WIDTHS, measure, measure_copies, noise, tensor,
};
use crate::unfused::{Shape, Unfused};

/// The operator and its unfused composition on sequences of `time`.
pub(crate) fn by_length(group: &mut Group<'_>, size: Size, dtype: DType) -> Result<()> {
    let window = Window::same(WIDTH)?;
    measure_fused(group, Line::new("dynamic_conv", size.time), size, window, dtype)?;
    measure_unfused(group, Line::new("dynamic_conv unfused", size.time), size, window, dtype)
}

/// Longer sequences of more channels, which fill any GPU.
pub(crate) fn large(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "dynamic_conv_large", device);
    let size = Size::large(4096);
    measure_copies(&mut group, size);
    for dtype in [DType::F32, DType::BF16] {
        for width in [3, 7, 31] {
            let window = Window::same(width)?;
            measure_fused(&mut group, Line::new(dtype.to_string(), width), size, window, dtype)?;
            measure_product(&mut group, Line::new(format!("product_{dtype}"), width), size, width, dtype)?;
            measure_unfused(&mut group, Line::new(format!("{dtype} unfused"), width), size, window, dtype)?;
        }
    }
    group.finish();
    Ok(())
}

pub(crate) fn by_width(criterion: &mut Criterion, device: &Device) -> Result<()> {
    // What a dynamic convolution cannot avoid is its generating product, and a pass over x: `f32` is to be set against
    // `product` and `light_conv` together, and all above that is the price of taps that differ from token to token.
    let mut group = Group::new(criterion, "dynamic_conv_by_width", device);
    let size = Size::of(TIME);
    measure_copies(&mut group, size);
    for width in WIDTHS {
        let window = Window::same(width)?;
        measure_fused(&mut group, Line::new("f32", width), size, window, DType::F32)?;
        measure_product(&mut group, Line::new("product", width), size, width, DType::F32)?;
        let line = Line::new("light_conv", width);
        light_conv::measure_fused(&mut group, line, size, window, DType::F32)?;
        measure_unfused(&mut group, Line::new("f32 unfused", width), size, window, DType::F32)?;
    }
    let window = Window::same(WIDTH)?;
    for dtype in [DType::F16, DType::BF16] {
        measure_fused(&mut group, Line::new(dtype.to_string(), WIDTH), size, window, dtype)?;
        let line = Line::new(format!("product_{dtype}"), WIDTH);
        measure_product(&mut group, line, size, WIDTH, dtype)?;
    }
    group.finish();
    Ok(())
}

fn measure_fused(group: &mut Group<'_>, line: Line, size: Size, window: Window, dtype: DType) -> Result<()> {
    let problem = DynamicConvProblem::generated(size.convolution(window, dtype)?)?;
    let device = group.device().clone();
    let weight = tensor(&[problem.logits(), size.channels], dtype, &device)?;
    let make = || -> Result<[Tensor; 2]> { Ok([size.tokens(dtype, &device)?, size.tokens(dtype, &device)?]) };
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        use crate::gpu::{elements, measure, rows};
        use lightspan::wgpu::{DeviceSequences, DynamicConv, DynamicConvArgs, TapArgs};
        let sequences = DeviceSequences::new(gpu, &size.sequences()?)?;
        let operator = DynamicConv::new(gpu, problem).map(|operator| {
            let scratch = operator.scratch_len();
            (operator, [scratch, 0])
        });
        return measure(
            group,
            gpu,
            (line, problem.bytes()),
            operator,
            make,
            |operator, [x, y], [scratch, _]| {
                let weight = elements(&weight);
                let args = DynamicConvArgs {
                    sequences: &sequences,
                    x: rows(x),
                    taps: TapArgs::Generated { weight, weight_bias: None, query: None },
                    bias: None,
                    history: None,
                    seed: None,
                    y: rows(y),
                };
                operator.bind(args, scratch)
            },
        );
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        use crate::cuda::{Scratch, elements, measure, rows, rows_mut};
        use lightspan::cuda::{DeviceSequences, DynamicConv, DynamicConvArgs, TapArgs};
        let sequences = DeviceSequences::new(gpu, &size.sequences()?)?;
        let operator = DynamicConv::new(gpu, problem);
        let len = operator.as_ref().map_or(0, DynamicConv::scratch_len);
        let mut scratch = Scratch::new(&device, len);
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, [x, y]| {
            let weight = elements(&weight);
            let args = DynamicConvArgs {
                sequences: &sequences,
                x: rows(x),
                taps: TapArgs::Generated { weight, weight_bias: None, query: None },
                bias: None,
                history: None,
                seed: None,
                y: rows_mut(y),
            };
            operator.launch(args, scratch.get()?)
        });
    }
    measure(group, line, problem.bytes(), make, |[x, y]| {
        ops::dynamic_conv_into(y, x, &weight, size.heads, window, &Default::default())
    });
    Ok(())
}

/// The generating product alone, [C] to [H K] for each token.
fn measure_product(group: &mut Group<'_>, line: Line, size: Size, width: usize, dtype: DType) -> Result<()> {
    let problem = LinearProblem::new(size.all(), size.channels, size.heads * width, dtype)?;
    linear::measure_fused(group, line, problem)
}

/// The operator in pieces: on the CPU, see [`Unfused`]; by CUDA the generating product into memory, and from there the
/// convolution with logits that are given.
fn measure_unfused(
    group: &mut Group<'_>,
    line: Line,
    size: Size,
    window: Window,
    dtype: DType,
) -> Result<()> {
    let problem = DynamicConvProblem::generated(size.convolution(window, dtype)?)?;
    #[cfg(feature = "cuda")]
    if let Some(gpu) = group.device().clone().cuda_gpu() {
        return measure_pieces(group, gpu, line, size, problem);
    }
    if !group.has_unfused() {
        return Ok(());
    }
    let weight = noise(problem.logits() * CHANNELS);
    let mut unfused = Unfused::new(Shape::new(size.time, window));
    let make = || Ok([noise(TOKENS * CHANNELS), noise(TOKENS * CHANNELS)]);
    measure(group, line, problem.bytes(), make, |[x, y]| unfused.dynamic_conv(x, &weight, y));
    Ok(())
}

/// The generating product, and the convolution with its logits.
#[cfg(feature = "cuda")]
fn measure_pieces(
    group: &mut Group<'_>,
    gpu: &lightspan::cuda::Gpu,
    line: Line,
    size: Size,
    fused: DynamicConvProblem,
) -> Result<()> {
    use crate::cuda::{elements, measure, rows, rows_mut};
    use lightspan::cuda::{DeviceSequences, DynamicConv, DynamicConvArgs, Linear, LinearArgs, TapArgs};
    let (conv, device) = (*fused.convolution(), group.device().clone());
    let dtype = conv.dtype();
    let product = LinearProblem::new(size.all(), size.channels, fused.logits(), dtype)?;
    let weight = tensor(&[fused.logits(), size.channels], dtype, &device)?;
    let sequences = DeviceSequences::new(gpu, &size.sequences()?)?;
    let operators = Linear::new(gpu, product)
        .and_then(|product| Ok((product, DynamicConv::new(gpu, DynamicConvProblem::given(conv)?)?)));
    let logits = [size.batch, size.time, fused.logits()];
    let make = || -> Result<[Tensor; 3]> {
        Ok([
            size.tokens(dtype, &device)?,
            Tensor::zeros(&logits, dtype, &device)?,
            size.tokens(dtype, &device)?,
        ])
    };
    measure(group, gpu, (line, fused.bytes()), operators, make, |(product, convolve), [x, logits, y]| {
        product.launch(LinearArgs {
            x: rows(x),
            weight: elements(&weight),
            bias: None,
            residual: None,
            y: rows_mut(logits),
        })?;
        let args = DynamicConvArgs {
            sequences: &sequences,
            x: rows(x),
            taps: TapArgs::Given { logits: rows(logits) },
            bias: None,
            history: None,
            seed: None,
            y: rows_mut(y),
        };
        convolve.launch(args, None)
    })
}
