use lightspan::cuda::{ElementsMut, RowsMut};
use lightspan::{DType, Tensor};

use super::{Bench, NUMBERS};

/// Which memory a call gets to write to: some that fits, with too few numbers, of halves, with rows that are too near, or
/// none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Memory {
    Good,
    Short(usize),
    Halves,
    Narrow,
    None,
}

/// Memory for one gradient, or for scratch: numbers of f32, and of f16.
pub struct Written([Tensor; 2]);

impl Written {
    pub fn of<const N: usize>(bench: &Bench) -> [Written; N] {
        [0; N].map(|_| Written([DType::F32, DType::F16].map(|dtype| bench.output(dtype))))
    }

    pub fn elements(&mut self, memory: Memory) -> Option<ElementsMut<'_>> {
        let [whole, halves] = &mut self.0;
        match memory {
            Memory::Good | Memory::Narrow => Some(whole.cuda_mut().unwrap()),
            Memory::Short(len) => Some(whole.cuda_mut().unwrap().at(NUMBERS - len)),
            Memory::Halves => Some(halves.cuda_mut().unwrap()),
            Memory::None => None,
        }
    }

    /// Rows of four numbers.
    pub fn rows(&mut self, memory: Memory) -> Option<RowsMut<'_>> {
        self.elements(memory).map(|elements| match memory {
            Memory::Narrow => RowsMut::strided(elements, 3),
            _ => RowsMut::contiguous(elements),
        })
    }
}
