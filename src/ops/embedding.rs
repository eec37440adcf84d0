use crate::cpu::{self, Rows, RowsMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Room;
use crate::ops::check;
use crate::problem::{EmbeddingProblem, same_or_f32};
#[cfg(feature = "wgpu")]
use crate::wgpu;
use crate::{DType, Dims, Error, Result, Sequences, Tensor, Tokens};

/// A table of positions.
#[derive(Clone, Copy, Debug)]
pub struct Positions<'a> {
    /// `[P, C]`: learned, or made by [`sinusoidal_positions`](crate::ops::sinusoidal_positions).
    pub table: &'a Tensor,
    /// The row that belongs to the first token of a sequence: in fairseq one more than the id of its padding, elsewhere 0.
    pub first: usize,
}

/// What an embedding may have besides its table.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingOptions<'a> {
    /// What rows of the table are multiplied by: finite; 1 by default.
    pub scale: f32,
    /// What is added for where a token stands in its sequence.
    pub positions: Option<Positions<'a>>,
    /// What is added for the type of a token: types of the shape of the tokens, and their table `[T, C]`.
    pub types: Option<(&'a Tokens, &'a Tensor)>,
    /// How tokens group into sequences: by default each row of `[batch, time]`, or, without positions, not at all.
    pub sequences: Option<&'a Sequences>,
    /// The type of y: by default that of the tables. Tables of f32 may have a y of any type.
    pub dtype: Option<DType>,
}

impl Default for EmbeddingOptions<'_> {
    fn default() -> Self {
        EmbeddingOptions { scale: 1.0, positions: None, types: None, sequences: None, dtype: None }
    }
}

/// The rows of tables that tokens stand for: y\[t\] = scale table\[token\[t\]\] + positions\[first + p(t)\] + types\[type\[t\]\].
///
/// Tokens `[batch, time]`, or `[tokens]` of a packed batch, or of any shape where there are neither sequences nor positions;
/// table `[V, C]`; y of the shape of the tokens, and C. p(t) is where a token stands in its sequence, plus the tokens of that
/// sequence that have gone by ([`Sequences::after`]). All tables have one type. Everything is formed in f32 and rounded once;
/// without a scale and other tables, rows are only moved: so this also picks any rows of a matrix, of any size.
///
/// A row outside of its sequence is zero. The ids there are not used, but are among those that
/// [`Tokens::bound`](Tokens::bound) is found of: no id may be past its table.
///
/// ```
/// use lightspan::{Device, Tensor, Tokens, ops};
///
/// let device = Device::cpu();
/// let table = Tensor::from_slice(&[0.0f32, 0.0, 1.0, 10.0, 2.0, 20.0], &[3, 2], &device)?;
/// let positions = Tensor::from_slice(&[0.5f32, 0.5, 0.25, 0.25], &[2, 2], &device)?;
/// let tokens = Tokens::from_slice(&[2, 1], &[1, 2], &device)?;
/// let positions = Some(ops::Positions { table: &positions, first: 0 });
/// let options = ops::EmbeddingOptions { positions, ..Default::default() };
/// let y = ops::embedding(&tokens, &table, &options)?;
/// assert_eq!(y.shape(), [1, 2, 2]);
/// assert_eq!(y.to_f32()?, [2.5, 20.5, 1.25, 10.25]);
/// # Ok::<(), lightspan::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::IdPastTable`] and [`Error::PositionPastTable`] for what a table has no row for; for tensors whose shapes, types or
/// devices do not fit, and as [`EmbeddingProblem`]'s constructors.
pub fn embedding(tokens: &Tokens, table: &Tensor, options: &EmbeddingOptions<'_>) -> Result<Tensor> {
    let call = describe(tokens, table, options)?;
    let mut y = Tensor::unwritten(&call.shape, call.problem.dtype(), table.device())?;
    launch(&call, tokens, table, options, &mut y)?;
    Ok(y)
}

/// [`embedding`] into a tensor that is there.
///
/// # Errors
///
/// As [`embedding`], and where y does not fit.
pub fn embedding_into(
    y: &mut Tensor,
    tokens: &Tokens,
    table: &Tensor,
    options: &EmbeddingOptions<'_>,
) -> Result<()> {
    let call = describe(tokens, table, options)?;
    check::operand("y", y, table, call.problem.dtype(), &call.shape)?;
    launch(&call, tokens, table, options, y)
}

struct Call {
    problem: EmbeddingProblem,
    sequences: Option<Sequences>,
    /// Of y.
    shape: Vec<usize>,
}

fn describe(tokens: &Tokens, table: &Tensor, options: &EmbeddingOptions<'_>) -> Result<Call> {
    let [vocabulary, channels] = check::matrix("table", table)?;
    let dtype = options.dtype.unwrap_or(table.dtype());
    same_or_f32("table", dtype, table.dtype())?;
    let sequences = sequences(tokens, options)?;
    let problem = match &sequences {
        Some(sequences) => EmbeddingProblem::of_sequences(sequences.shape(), vocabulary, channels, dtype)?,
        None => EmbeddingProblem::new(tokens.len(), vocabulary, channels, dtype)?,
    };
    let mut problem = problem.with_parameters(table.dtype())?.with_scale(options.scale)?;
    check::operand("tokens", tokens.bits(), table, DType::F32, tokens.shape())?;
    if let Some(Positions { table: positions, first }) = options.positions {
        let [rows, _] = check::matrix("positions", positions)?;
        problem = problem.with_positions(rows, first)?;
        check::operand("positions", positions, table, table.dtype(), &[rows, channels])?;
    }
    if let Some((ids, types)) = options.types {
        let [rows, _] = check::matrix("types", types)?;
        problem = problem.with_types(rows)?;
        check::operand("type ids", ids.bits(), table, DType::F32, tokens.shape())?;
        check::operand("types", types, table, table.dtype(), &[rows, channels])?;
        problem.check_types(ids.bound())?;
    }
    problem.check_tokens(tokens.bound())?;
    if let Some(sequences) = &sequences {
        problem.check_positions(sequences)?;
    }
    #[cfg(feature = "wgpu")]
    check::planned_wgpu(table, |gpu| wgpu::Embedding::new(gpu, problem))?;
    #[cfg(feature = "cuda")]
    check::planned_cuda(table, |gpu| cuda::Embedding::new(gpu, problem))?;
    let shape = tokens.shape().iter().copied().chain([channels]).collect();
    Ok(Call { problem, sequences, shape })
}

/// The sequences given, or the rows of a batch where positions are asked for.
fn sequences(tokens: &Tokens, options: &EmbeddingOptions<'_>) -> Result<Option<Sequences>> {
    let shape = |expected: Dims| Error::Shape { tensor: "tokens", expected, got: tokens.shape().into() };
    match (options.sequences, tokens.shape()) {
        (Some(sequences), sizes) => {
            let mut expected = sequences.shape().tensor(1);
            expected.pop();
            if sizes != expected {
                return Err(shape(expected[..].into()));
            }
            Ok(Some(sequences.clone()))
        }
        (None, _) if options.positions.is_none() => Ok(None),
        (None, &[batch, time]) => Ok(Some(Sequences::batch(batch, time)?)),
        (None, _) => Err(shape([None, None].into())),
    }
}

fn launch(
    call: &Call,
    tokens: &Tokens,
    table: &Tensor,
    options: &EmbeddingOptions<'_>,
    y: &mut Tensor,
) -> Result<()> {
    let Call { problem, sequences, .. } = call;
    let positions = options.positions.map(|positions| positions.table);
    let (type_ids, types) = options.types.unzip();
    match table.device().room() {
        Room::Cpu(_) => cpu::Embedding::new(*problem).run(cpu::EmbeddingArgs {
            sequences: sequences.as_ref(),
            tokens: tokens.cpu(),
            table: Rows::contiguous(table.cpu()),
            positions: positions.map(|positions| Rows::contiguous(positions.cpu())),
            type_ids: type_ids.map(Tokens::cpu),
            types: types.map(|types| Rows::contiguous(types.cpu())),
            y: RowsMut::contiguous(y.cpu_mut()),
        }),
        #[cfg(feature = "wgpu")]
        Room::Wgpu(gpu) => {
            let operator = wgpu::Embedding::new(gpu, *problem)?;
            let sequences = sequences.as_ref().map(|sequences| gpu.sequences(sequences)).transpose()?;
            let args = wgpu::EmbeddingArgs {
                sequences: sequences.as_ref(),
                tokens: tokens.buffer().into(),
                table: wgpu::Rows::contiguous(table.buffer()),
                positions: positions.map(|positions| wgpu::Rows::contiguous(positions.buffer())),
                type_ids: type_ids.map(|ids| ids.buffer().into()),
                types: types.map(|types| wgpu::Rows::contiguous(types.buffer())),
                y: wgpu::Rows::contiguous(y.buffer()),
            };
            gpu.run([0, 0], |_| operator.bind(args))
        }
        #[cfg(feature = "cuda")]
        Room::Cuda(gpu) => {
            let sequences = sequences.as_ref().map(|sequences| gpu.sequences(sequences)).transpose()?;
            cuda::Embedding::new(gpu, *problem)?.launch(cuda::EmbeddingArgs {
                sequences: sequences.as_ref(),
                tokens: tokens.on_cuda(),
                table: cuda::Rows::contiguous(table.on_cuda()),
                positions: positions.map(|positions| cuda::Rows::contiguous(positions.on_cuda())),
                type_ids: type_ids.map(Tokens::on_cuda),
                types: types.map(|types| cuda::Rows::contiguous(types.on_cuda())),
                y: cuda::RowsMut::contiguous(y.on_cuda_mut()),
            })
        }
    }
}
