use std::fmt;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Mutex;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::{Error, Result, bf16, f16};

/// A `.safetensors` file: 8 bytes that say how long its header is, the header, and the numbers.
pub(super) struct File {
    /// What it is called in messages.
    name: String,
    header: Metadata,
    /// Where the numbers begin.
    data: u64,
    reader: Mutex<Box<dyn Reader>>,
}

trait Reader: Read + Seek + Send {}

impl<R: Read + Seek + Send> Reader for R {}

/// A header that is longer is none: the format's own limit.
const LONGEST_HEADER: u64 = 100_000_000;

impl File {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = std::fs::File::open(path).map_err(|error| broken(&name, error))?;
        File::read(name, Box::new(file))
    }

    pub(super) fn in_memory(bytes: Vec<u8>) -> Result<Self> {
        File::read("the weights in memory".to_owned(), Box::new(Cursor::new(bytes)))
    }

    fn read(name: String, mut reader: Box<dyn Reader>) -> Result<Self> {
        let broken =
            |reason: &dyn fmt::Display| broken(&name, format!("not a whole safetensors file: {reason}"));
        let size = reader.seek(SeekFrom::End(0)).map_err(|error| broken(&error))?;
        reader.rewind().map_err(|error| broken(&error))?;
        let mut length = [0; 8];
        reader.read_exact(&mut length).map_err(|error| broken(&error))?;
        let length = u64::from_le_bytes(length);
        let left = size.saturating_sub(8);
        if length > left.min(LONGEST_HEADER) {
            return Err(broken(&format!("a header of {length} bytes in a file of {size}")));
        }
        let mut header = vec![0; length as usize];
        reader.read_exact(&mut header).map_err(|error| broken(&error))?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|error| broken(&error))?;
        let (expected, got) = (header.data_len() as u64, left - length);
        if expected != got {
            return Err(broken(&format!(
                "its header tells of {expected} bytes of numbers, and it has {got}"
            )));
        }
        Ok(File { header, data: 8 + length, reader: Mutex::new(reader), name })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// All names, in their order.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.header.tensors().into_keys().collect();
        names.sort();
        names
    }

    /// Bytes of all numbers.
    pub(super) fn total(&self) -> u64 {
        self.header.data_len() as u64
    }

    /// The numbers of a tensor that must have this shape, and how many bytes they are.
    pub(super) fn values(&self, name: &str, shape: &[usize]) -> Result<(Vec<f32>, u64)> {
        let missing = || Error::MissingWeight { name: name.to_owned(), expected: shape.into() };
        let info = self.header.info(name).ok_or_else(missing)?;
        let TensorInfo { dtype, shape: got, data_offsets: (begin, end) } = info;
        if got != shape {
            let (expected, got) = (shape.into(), got.as_slice().into());
            return Err(Error::WeightShape { name: name.to_owned(), expected, got });
        }
        let convert: fn(&[u8]) -> Vec<f32> = match dtype {
            Dtype::F32 => |bytes| numbers(bytes, f32::from_le_bytes),
            Dtype::F16 => |bytes| numbers(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Dtype::BF16 => |bytes| numbers(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            other => return Err(Error::WeightType { name: name.to_owned(), got: other.to_string() }),
        };
        let length = end - begin;
        let mut bytes = vec![];
        bytes.try_reserve_exact(length).map_err(|_| Error::OutOfMemory { what: "weights", bytes: length })?;
        bytes.resize(length, 0);
        let mut reader = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let at = SeekFrom::Start(self.data + *begin as u64);
        reader
            .seek(at)
            .and_then(|_| reader.read_exact(&mut bytes))
            .map_err(|error| broken(&self.name, error))?;
        Ok((convert(&bytes), length as u64))
    }
}

/// Little-endian numbers of N bytes each.
fn numbers<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().copied().map(number).collect()
}

fn broken(file: &str, reason: impl fmt::Display) -> Error {
    Error::File { file: file.to_owned(), reason: reason.to_string() }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
