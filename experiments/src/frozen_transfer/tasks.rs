use std::sync::Arc;

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::loss;
use clap::ValueEnum;
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::data::digits::{self, Digit};
use crate::model::binary_cross_entropy;
use crate::random::random;

/// Strings that are remembered.
const STRINGS: usize = 5;
/// Bits of a token of theirs.
pub const BITS: usize = 50;
/// Bits of a number that is combined with another.
const XOR_BITS: usize = 5;
/// Problems that are judged, of those that are drawn.
const JUDGED: usize = 256;
/// Digits of which half choose the learning rate and half are told.
const DIGITS_HELD_OUT: usize = 600;

/// What a language model's layers are turned to (Lu et al. 2021, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Five strings of bits, and one of them again with half of its bits gone: which were they?
    Memory,
    /// The bitwise exclusive or of two numbers.
    Xor,
    /// Handwritten digits, patch by patch.
    Digits,
}

/// What a batch is drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A step of training.
    Step(usize),
    /// To choose a learning rate.
    Choice,
    /// To be told.
    Test,
}

/// A task with its data.
#[derive(Clone)]
pub struct Problems {
    task: Task,
    batch: usize,
    memory_tokens: usize,
    digits: Arc<[Digit]>,
    device: Device,
}

/// Inputs `[batch, tokens, channels]` and what is to be said of them: bits `[batch, tokens, bits]`, or classes `[batch]`.
pub struct Batch {
    pub inputs: Tensor,
    pub expected: Tensor,
}

impl Task {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Task::Memory => "bit memory",
            Task::Xor => "bit XOR",
            Task::Digits => "digits",
        }
    }
}

impl Problems {
    /// In batches of a size; strings to remember have so many bits, a multiple of 50.
    pub fn new(task: Task, batch: usize, memory_bits: usize, device: &Device) -> Result<Self> {
        let mut digits = if task == Task::Digits { digits::digits()? } else { Vec::new() };
        // Those of one writer stand together. Which are judged by is drawn once and for all, so that each writer is on both sides.
        digits.shuffle(&mut random(0, "digits", 0));
        let memory_tokens = memory_bits / BITS;
        Ok(Problems { task, batch, memory_tokens, digits: digits.into(), device: device.clone() })
    }

    /// Tokens of a problem.
    pub fn tokens(&self) -> usize {
        match self.task {
            Task::Memory => (STRINGS + 1) * self.memory_tokens,
            Task::Xor => 2 * XOR_BITS,
            Task::Digits => digits::TOKENS,
        }
    }

    /// Tokens at the end that say something.
    pub fn answers(&self) -> usize {
        match self.task {
            Task::Memory => self.memory_tokens,
            Task::Xor => XOR_BITS,
            Task::Digits => 1,
        }
    }

    /// Channels of an input.
    pub fn inputs(&self) -> usize {
        match self.task {
            Task::Memory => BITS,
            Task::Xor => 1,
            Task::Digits => digits::CHANNELS,
        }
    }

    /// Logits of a token that says something.
    pub fn outputs(&self) -> usize {
        match self.task {
            Task::Memory => BITS,
            Task::Xor => 1,
            Task::Digits => digits::CLASSES,
        }
    }

    /// What is drawn for a purpose.
    pub fn batch(&self, seed: u64, purpose: Purpose) -> candle_core::Result<Batch> {
        let (name, step, count) = match purpose {
            Purpose::Step(step) => ("step", step, self.batch),
            Purpose::Choice => ("choice", 0, JUDGED),
            Purpose::Test => ("test", 0, JUDGED),
        };
        let mut random = random(seed, name, step);
        let (mut inputs, mut expected) = (Vec::new(), Vec::new());
        // Bits go in as 1 and -1, and what is not known as 0.
        let sign = |bit: bool| if bit { 1f32 } else { -1.0 };
        let answer = |bit: bool| f32::from(u8::from(bit));
        match self.task {
            Task::Memory => {
                let bits = self.memory_tokens * BITS;
                for _ in 0..count {
                    let strings: Vec<bool> = (0..STRINGS * bits).map(|_| random.random()).collect();
                    let asked = &strings[random.random_range(0..STRINGS) * bits..][..bits];
                    inputs.extend(strings.iter().map(|&bit| sign(bit)));
                    inputs.extend(asked.iter().map(|&bit| if random.random() { sign(bit) } else { 0.0 }));
                    expected.extend(asked.iter().map(|&bit| answer(bit)));
                }
            }
            Task::Xor => {
                for _ in 0..count {
                    let bits: [bool; 2 * XOR_BITS] = random.random();
                    inputs.extend(bits.map(sign));
                    expected.extend((0..XOR_BITS).map(|i| answer(bits[i] ^ bits[XOR_BITS + i])));
                }
            }
            Task::Digits => return self.images(purpose, &mut random),
        }
        Ok(Batch {
            inputs: Tensor::from_vec(inputs, (count, self.tokens(), self.inputs()), &self.device)?,
            expected: Tensor::from_vec(expected, (count, self.answers(), self.outputs()), &self.device)?,
        })
    }

    fn images(&self, purpose: Purpose, random: &mut impl rand::Rng) -> candle_core::Result<Batch> {
        let (held_out, training) = self.digits.split_at(DIGITS_HELD_OUT);
        let (choice, test) = held_out.split_at(DIGITS_HELD_OUT / 2);
        let chosen: Vec<&Digit> = match purpose {
            Purpose::Step(_) => {
                (0..self.batch).map(|_| &training[random.random_range(0..training.len())]).collect()
            }
            Purpose::Choice => choice.iter().collect(),
            Purpose::Test => test.iter().collect(),
        };
        let inputs: Vec<f32> = chosen.iter().flat_map(|digit| digit.patches.iter().copied()).collect();
        let labels: Vec<u32> = chosen.iter().map(|digit| digit.label).collect();
        Ok(Batch {
            inputs: Tensor::from_vec(inputs, (chosen.len(), self.tokens(), self.inputs()), &self.device)?,
            expected: Tensor::from_vec(labels, chosen.len(), &self.device)?,
        })
    }

    /// The loss of logits `[batch, answers, outputs]`.
    pub fn loss(&self, logits: &Tensor, expected: &Tensor) -> candle_core::Result<Tensor> {
        match self.task {
            Task::Memory | Task::Xor => binary_cross_entropy(logits, expected),
            Task::Digits => loss::cross_entropy(&logits.squeeze(1)?, expected),
        }
    }

    /// The part of bits, or of classes, that is said right.
    pub fn accuracy(&self, logits: &Tensor, expected: &Tensor) -> candle_core::Result<f64> {
        let right = match self.task {
            Task::Memory | Task::Xor => logits.ge(0f64)?.eq(&expected.to_dtype(DType::U8)?)?,
            Task::Digits => logits.squeeze(1)?.argmax(D::Minus1)?.eq(expected)?,
        };
        Ok(f64::from(right.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(task: Task) -> Problems {
        Problems::new(task, 7, 150, &Device::Cpu).unwrap()
    }

    #[test]
    fn what_is_asked_is_what_was_said() {
        let problems = problems(Task::Memory);
        assert_eq!((problems.tokens(), problems.answers()), (18, 3));
        let batch = problems.batch(1, Purpose::Step(4)).unwrap();
        let bits = 3 * BITS;
        let inputs = batch.inputs.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
        let expected = batch.expected.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
        for (inputs, expected) in inputs.iter().zip(&expected) {
            let signs: Vec<f32> = expected.iter().map(|bit| 2.0 * bit - 1.0).collect();
            let (strings, asked) = inputs.split_at(STRINGS * bits);
            assert!(strings.chunks(bits).any(|string| string == signs));
            assert!(asked.iter().zip(&signs).all(|(asked, sign)| *asked == 0.0 || asked == sign));
            // Of 150 bits half are known, within six deviations of 6.1.
            let known = asked.iter().filter(|asked| **asked != 0.0).count();
            assert!((38..113).contains(&known), "{known}");
        }
    }

    #[test]
    fn exclusive_or_is_that_of_the_bits() {
        let batch = problems(Task::Xor).batch(1, Purpose::Test).unwrap();
        let inputs = batch.inputs.squeeze(2).unwrap().to_vec2::<f32>().unwrap();
        let expected = batch.expected.squeeze(2).unwrap().to_vec2::<f32>().unwrap();
        for (inputs, expected) in inputs.iter().zip(&expected) {
            for i in 0..XOR_BITS {
                assert_eq!(expected[i] == 1.0, inputs[i] != inputs[i + XOR_BITS]);
            }
        }
    }

    #[test]
    fn digits_that_are_judged_are_not_trained_on() {
        let problems = problems(Task::Digits);
        let rows = |purpose| -> Vec<Vec<u32>> {
            let inputs = problems.batch(3, purpose).unwrap().inputs.flatten_from(1).unwrap();
            inputs
                .to_vec2::<f32>()
                .unwrap()
                .into_iter()
                .map(|row| row.into_iter().map(f32::to_bits).collect())
                .collect()
        };
        let (choice, test) = (rows(Purpose::Choice), rows(Purpose::Test));
        assert_eq!((choice.len(), test.len()), (300, 300));
        assert!(choice.iter().all(|row| !test.contains(row)));
        for step in 0..60 {
            let trained = rows(Purpose::Step(step));
            assert!(trained.iter().all(|row| !choice.contains(row) && !test.contains(row)));
        }
    }

    #[test]
    fn accuracy_counts_what_is_right() {
        let problems = problems(Task::Xor);
        let logits = Tensor::new(&[[[2f32], [-1.0], [0.5], [-3.0], [1.0]]], &Device::Cpu).unwrap();
        let expected = Tensor::new(&[[[1f32], [0.0], [0.0], [0.0], [0.0]]], &Device::Cpu).unwrap();
        assert!((problems.accuracy(&logits, &expected).unwrap() - 0.6).abs() < 1e-6);
    }
}
