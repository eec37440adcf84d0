//! Embeddings, the largest numbers of rows, and the caches of decoders: where a model begins, where a step of its decoding
//! ends, and what attention keeps for the next one.

use criterion::Criterion;
use lightspan::ops::{self, EmbeddingOptions, Positions, TopKOptions};
use lightspan::problem::{AppendProblem, EmbeddingProblem, TopKProblem};
use lightspan::{DType, Device, Result, Sequences, Tensor, Tokens};

use crate::support::{CHANNELS, Group, LENGTHS, Line, Size, measure, measure_copy, tensor};

/// Rows of the table, and numbers of a row of logits: the vocabulary of BART and of many other models.
const VOCABULARY: usize = 50_265;

/// How many of them a beam search asks for.
const LARGEST: usize = 5;

/// One sequence of each length, with positions.
pub(crate) fn embedding_by_length(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "embedding_by_length", device);
    for length in LENGTHS {
        measure_copy(&mut group, length, length * CHANNELS * DType::F32.size());
        let sequences = Sequences::batch(1, length)?;
        embed(&mut group, Line::new("embedding", length), &sequences, (CHANNELS, DType::F32), true)?;
    }
    group.finish();
    Ok(())
}

/// As many tokens as fill any GPU, of as many channels as a model has.
pub(crate) fn embedding_large(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "embedding_large", device);
    let size = Size::large(4096);
    measure_copy(&mut group, "bf16", size.bytes(DType::BF16));
    for (what, positions) in [("alone", false), ("positions", true)] {
        let line = Line::new(format!("embedding {what}"), "bf16");
        embed(&mut group, line, &size.sequences()?, (size.channels, DType::BF16), positions)?;
    }
    group.finish();
    Ok(())
}

/// The logits of one token, of some, and of as many as a large beam search has.
pub(crate) fn top_k_by_rows(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "top_k_by_rows", device);
    for rows in [1, 8, 64, 512] {
        measure_copy(&mut group, rows, rows * VOCABULARY * DType::BF16.size());
        let argmax = TopKProblem::new(rows, VOCABULARY, 1, DType::BF16)?.with_values(false);
        rank(&mut group, Line::new("argmax", rows), argmax)?;
        let largest = TopKProblem::new(rows, VOCABULARY, LARGEST, DType::BF16)?.with_log_softmax(true);
        rank(&mut group, Line::new(format!("the {LARGEST} largest"), rows), largest)?;
    }
    group.finish();
    Ok(())
}

/// Prompts written into an empty cache that they fill. What a step of decoding writes is next to nothing: for that see the
/// group `decoding_by_length`.
pub(crate) fn append_by_length(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let mut group = Group::new(criterion, "append_by_length", device);
    for time in LENGTHS {
        let size = Size::of(time);
        measure_copy(&mut group, time, size.bytes(DType::F32));
        append(&mut group, Line::new("append", time), size)?;
    }
    group.finish();
    Ok(())
}

fn append(group: &mut Group<'_>, line: Line, size: Size) -> Result<()> {
    let (device, dtype, sequences) = (group.device().clone(), DType::F32, &size.sequences()?);
    let problem = AppendProblem::new(sequences.shape(), size.channels, size.time, dtype)?;
    let make = || -> Result<[Tensor; 2]> {
        Ok([size.tokens(dtype, &device)?, Tensor::zeros(&problem.cache_shape(), dtype, &device)?])
    };
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        use crate::gpu::{measure, rows};
        use lightspan::wgpu::{Append, AppendArgs, DeviceSequences};
        let list = DeviceSequences::new(gpu, sequences)?;
        let operator = Append::new(gpu, problem).map(|operator| (operator, [0, 0]));
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, [x, cache], _| {
            operator.bind(AppendArgs { sequences: &list, x: rows(x), cache: rows(cache) })
        });
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        use crate::cuda::{measure, rows, rows_mut};
        use lightspan::cuda::{Append, AppendArgs, DeviceSequences};
        let list = DeviceSequences::new(gpu, sequences)?;
        let operator = Append::new(gpu, problem);
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, [x, cache]| {
            operator.launch(AppendArgs { sequences: &list, x: rows(x), cache: rows_mut(cache) })
        });
    }
    measure(group, line, problem.bytes(), make, |[x, cache]| ops::append(cache, &*x, sequences));
    Ok(())
}

fn embed(
    group: &mut Group<'_>,
    line: Line,
    sequences: &Sequences,
    (channels, dtype): (usize, DType),
    positions: bool,
) -> Result<()> {
    let (device, shape) = (group.device().clone(), sequences.shape());
    let length = shape.tokens() / shape.sequences().max(1);
    let problem = EmbeddingProblem::of_sequences(shape, VOCABULARY, channels, dtype)?;
    let problem = if positions { problem.with_positions(length, 0)? } else { problem };
    let table = tensor(&[VOCABULARY, channels], dtype, &device)?;
    let positions = positions.then(|| tensor(&[length, channels], dtype, &device)).transpose()?;
    // No two near one another are neighbours in the table.
    let ids: Vec<u32> = (0..shape.tokens()).map(|i| (i * 7919 % VOCABULARY) as u32).collect();
    let make = || -> Result<(Tokens, Tensor)> {
        let tokens = Tokens::from_slice(&ids, &[shape.sequences(), length], &device)?;
        Ok((tokens, Tensor::zeros(&shape.tensor(channels), dtype, &device)?))
    };
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        use crate::gpu::{measure, rows};
        use lightspan::wgpu::{DeviceSequences, Elements, Embedding, EmbeddingArgs};
        let list = DeviceSequences::new(gpu, sequences)?;
        let operator = Embedding::new(gpu, problem).map(|operator| (operator, [0, 0]));
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, (tokens, y), _| {
            operator.bind(EmbeddingArgs {
                sequences: Some(&list),
                tokens: Elements::from(tokens.wgpu_buffer().expect("tokens of a wgpu device")),
                table: rows(&table),
                positions: positions.as_ref().map(rows),
                type_ids: None,
                types: None,
                y: rows(y),
            })
        });
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        use crate::cuda::{measure, rows, rows_mut};
        use lightspan::cuda::{DeviceSequences, Embedding, EmbeddingArgs};
        let list = DeviceSequences::new(gpu, sequences)?;
        let operator = Embedding::new(gpu, problem);
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, (tokens, y)| {
            operator.launch(EmbeddingArgs {
                sequences: Some(&list),
                tokens: tokens.cuda().expect("tokens of a CUDA device"),
                table: rows(&table),
                positions: positions.as_ref().map(rows),
                type_ids: None,
                types: None,
                y: rows_mut(y),
            })
        });
    }
    measure(group, line, problem.bytes(), make, |(tokens, y)| {
        let positions = positions.as_ref().map(|table| Positions { table, first: 0 });
        ops::embedding_into(y, tokens, &table, &EmbeddingOptions { positions, ..Default::default() })
    });
    Ok(())
}

fn rank(group: &mut Group<'_>, line: Line, problem: TopKProblem) -> Result<()> {
    let device = group.device().clone();
    let outputs = [problem.rows(), problem.k()];
    let make = || -> Result<(Tensor, Tensor, Tokens)> {
        let x = tensor(&[problem.rows(), problem.vocabulary()], problem.dtype(), &device)?;
        Ok((x, Tensor::zeros(&outputs, DType::F32, &device)?, Tokens::zeros(&outputs, &device)?))
    };
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = device.gpu() {
        use crate::gpu::{measure, rows};
        use lightspan::wgpu::{Elements, TopK, TopKArgs};
        let operator = TopK::new(gpu, problem).map(|operator| (operator, [0, 0]));
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, made, _| {
            let (x, values, tokens) = made;
            operator.bind(TopKArgs {
                x: rows(x),
                values: problem.has_values().then(|| rows(values)),
                tokens: Elements::from(tokens.wgpu_buffer().expect("tokens of a wgpu device")),
            })
        });
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = device.cuda_gpu() {
        use crate::cuda::{measure, rows, rows_mut};
        use lightspan::cuda::{TopK, TopKArgs};
        let operator = TopK::new(gpu, problem);
        return measure(group, gpu, (line, problem.bytes()), operator, make, |operator, made| {
            let (x, values, tokens) = made;
            operator.launch(TopKArgs {
                x: rows(x),
                values: problem.has_values().then(|| rows_mut(values)),
                tokens: tokens.cuda_mut().expect("tokens of a CUDA device"),
            })
        });
    }
    measure(group, line, problem.bytes(), make, |(x, values, tokens)| match problem.has_values() {
        true => {
            let options = TopKOptions { log_softmax: problem.has_log_softmax() };
            ops::top_k_into(values, tokens, x, problem.k(), &options)
        }
        // An argmax has a token a row, and no size for how many there are.
        false => ops::argmax(x).map(drop),
    });
    Ok(())
}
