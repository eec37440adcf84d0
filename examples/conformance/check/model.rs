//! A whole model against what another implementation computed with the same parameters: a folder with `config.json`,
//! `model.safetensors` and `expected.safetensors`.

mod convbert;
mod seq2seq;

use std::collections::BTreeMap;
use std::path::Path;

use lightspan::reference::Estimate;
use lightspan::{DType, Device, Sequences, Tensor, Tokens};
use safetensors::{Dtype, SafeTensors};

use super::fixture::numbers;
use super::{Agreement, Outcome, Result, Types};

/// How far a value may be off, relative to the largest magnitude of its tensor.
const TOLERANCE: f64 = 2e-5;

/// The model in `folder` on a device, in f32.
pub(crate) fn check_model(folder: &Path, case: String, device: &Device) -> Outcome {
    let types = Types::Stored { tokens: DType::F32, parameters: DType::F32 };
    Outcome { case, types, result: run(folder, device) }
}

fn run(folder: &Path, device: &Device) -> Result<Agreement> {
    let expected = Expected::read(&folder.join("expected.safetensors"))?;
    let agreements = match expected.op.as_str() {
        "convbert_masked_lm" => convbert::run(folder, &expected, device)?,
        "lightconv_seq2seq" => seq2seq::run(folder, &expected, device)?,
        op => return Err(format!("op {op:?} is not known").into()),
    };
    Agreement::worst(agreements)
}

/// What the other implementation was given, and what it gave.
struct Expected {
    op: String,
    numbers: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    integers: BTreeMap<String, (Vec<usize>, Vec<i64>)>,
}

impl Expected {
    fn read(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        let op = header.metadata().as_ref().and_then(|metadata| metadata.get("op"));
        let op = op.ok_or("metadata op is missing")?.clone();
        let mut expected = Expected { op, numbers: BTreeMap::new(), integers: BTreeMap::new() };
        for (name, view) in SafeTensors::deserialize(&bytes)?.iter() {
            let (name, shape, data) = (name.to_owned(), view.shape().to_vec(), view.data());
            match view.dtype() {
                Dtype::F32 => {
                    let values = numbers(data, |bytes| f64::from(f32::from_le_bytes(bytes)));
                    expected.numbers.insert(name, (shape, values));
                }
                Dtype::I64 => {
                    expected.integers.insert(name, (shape, numbers(data, i64::from_le_bytes)));
                }
                dtype => return Err(format!("{name} is {dtype}, expected F32 or I64").into()),
            }
        }
        Ok(expected)
    }

    /// A matrix of integers: its sizes, and its numbers.
    fn integers(&self, name: &str) -> Result<([usize; 2], Vec<u32>)> {
        let (shape, values) = self.integers.get(name).ok_or_else(|| format!("tensor {name} is missing"))?;
        let sizes = shape.as_slice().try_into().map_err(|_| format!("{name} has shape {shape:?}"))?;
        let id = |&value: &i64| u32::try_from(value).map_err(|_| format!("{name} holds {value}"));
        Ok((sizes, values.iter().map(id).collect::<Result<_, _>>()?))
    }

    /// How far a tensor is from the one of that name, in the rows for which `keep` says that they mean something.
    fn agreement(&self, name: &'static str, got: &Tensor, keep: impl Fn(usize) -> bool) -> Result<Agreement> {
        let (shape, values) = self.numbers.get(name).ok_or_else(|| format!("tensor {name} is missing"))?;
        if got.shape() != shape {
            return Err(format!("{name} has shape {:?}, expected {shape:?}", got.shape()).into());
        }
        let largest = values.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let channels = shape.last().copied().unwrap_or(1).max(1);
        let mut found: Vec<f64> = got.to_f32()?.into_iter().map(f64::from).collect();
        let mut expected: Vec<Estimate> =
            values.iter().map(|&value| Estimate { value, bound: TOLERANCE * largest }).collect();
        for row in (0..found.len() / channels).filter(|&row| !keep(row)) {
            let row = row * channels..(row + 1) * channels;
            found[row.clone()].fill(0.0);
            expected[row].fill(Estimate { value: 0.0, bound: 0.0 });
        }
        Ok(Agreement::of(&expected, &found, DType::F32, shape)?.named(name))
    }
}

/// Sequences with padding after them, by whether there is a token, `[batch, time]`.
fn padded([batch, time]: [usize; 2], is_token: impl Fn(usize) -> bool) -> Result<Sequences> {
    let lengths = (0..batch).map(|sequence| {
        let row = sequence * time..(sequence + 1) * time;
        let length = row.clone().take_while(|&i| is_token(i)).count();
        match row.skip(length).any(&is_token) {
            true => Err(format!("sequence {sequence} has padding before tokens")),
            false => Ok(length),
        }
    });
    Ok(Sequences::padded(time, &lengths.collect::<Result<Vec<_>, _>>()?)?)
}

fn tokens((sizes, ids): &([usize; 2], Vec<u32>), device: &Device) -> Result<Tokens> {
    Ok(Tokens::from_slice(ids, sizes, device)?)
}
