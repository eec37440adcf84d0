use lightspan::problem::AppendProblem;
use lightspan::{DType, Device, Sequences, Tensor, ops, reference};
use proptest::collection::vec;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::{Memory, config, devices, dtypes, sequences};

/// A drawn call, with the bits of its tensors: of any number there is, NaN with all that it can carry among them.
#[derive(Clone, Debug)]
pub struct Case {
    pub problem: AppendProblem,
    pub sequences: Sequences,
    pub x: Vec<u32>,
    pub cache: Vec<u32>,
}

impl Case {
    pub fn draw(sequences: Sequences, channels: usize, spare: usize, dtype: DType, seed: u64) -> Self {
        let room = sequences.gone_by().into_iter().max().unwrap_or(0) + spare;
        let problem = AppendProblem::new(sequences.shape(), channels, room.max(1), dtype).unwrap();
        let mut rng = SmallRng::seed_from_u64(seed);
        let mask = if dtype == DType::F32 { u32::MAX } else { 0xffff };
        let mut bits = |len: usize| (0..len).map(|_| rng.random::<u32>() & mask).collect();
        let x = bits(sequences.shape().tokens() * channels);
        let cache = bits(problem.cache_shape().iter().product());
        Case { problem, sequences, x, cache }
    }

    /// What the cache holds in the end, bit by bit: in the reference each number stands for itself.
    pub fn expected(&self) -> Vec<u32> {
        let all: Vec<u32> = self.cache.iter().chain(&self.x).copied().collect();
        let numbers: Vec<f64> = (0..all.len()).map(|i| i as f64).collect();
        let (mut cache, x) = (numbers[..self.cache.len()].to_vec(), &numbers[self.cache.len()..]);
        reference::append(&self.problem, &self.sequences, x, &mut cache);
        cache.into_iter().map(|i| all[i as usize]).collect()
    }

    /// The cache once the call was run on a device.
    pub fn run(&self, device: &Device) -> Tensor {
        let shape = self.sequences.shape().tensor(self.problem.channels());
        let x = tensor(&self.x, &shape, self.problem.dtype(), device);
        let mut cache = self.cache_on(device);
        ops::append(&mut cache, &x, &self.sequences).unwrap();
        cache
    }

    fn cache_on(&self, device: &Device) -> Tensor {
        tensor(&self.cache, &self.problem.cache_shape(), self.problem.dtype(), device)
    }
}

/// A tensor of these bits.
fn tensor(bits: &[u32], shape: &[usize], dtype: DType, device: &Device) -> Tensor {
    match Memory::of_bits(bits.iter().copied(), dtype) {
        Memory::F32(data) => Tensor::from_slice(&data, shape, device),
        Memory::F16(data) => Tensor::from_slice(&data, shape, device),
        Memory::BF16(data) => Tensor::from_slice(&data, shape, device),
    }
    .unwrap()
}

/// The bits of a tensor.
fn bits(tensor: &Tensor) -> Vec<u32> {
    match tensor.dtype() {
        DType::F32 => Memory::F32(tensor.to_vec().unwrap()),
        DType::F16 => Memory::F16(tensor.to_vec().unwrap()),
        DType::BF16 => Memory::BF16(tensor.to_vec().unwrap()),
        dtype => panic!("no tensor of {dtype}"),
    }
    .bits()
}

/// Calls of every layout, with any tokens gone by, odd channels and even ones, and room to spare or none.
pub fn case() -> impl Strategy<Value = Case> {
    let channels = prop_oneof![3 => 1usize..10, 2 => prop::sample::select(&[16, 24, 64, 131, 1030][..])];
    let past = vec(prop_oneof![1 => Just(0usize), 2 => 0usize..40], 5);
    (sequences(0..6, 0..30), past, channels, 0usize..4, dtypes(), any::<u64>()).prop_map(
        |(sequences, past, channels, spare, (dtype, _), seed)| {
            let count = sequences.shape().sequences();
            let sequences = sequences.after(&past[..count]).unwrap();
            Case::draw(sequences, channels, spare, dtype, seed)
        },
    )
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn equals_the_reference(case in case()) {
        for device in devices() {
            prop_assert_eq!(bits(&case.run(&device)), case.expected(), "{}", device);
        }
    }

    /// A cache that is filled by chunks of any sizes, in any layout, is that which is filled at once.
    #[test]
    fn chunks_are_as_good_as_the_whole(
        case in case(), parts in vec(vec(0usize..12, 5), 1..4), packed in any::<bool>(),
    ) {
        let (dtype, channels) = (case.problem.dtype(), case.problem.channels());
        let all = case.sequences.as_slice();
        for device in devices() {
            let mut cache = case.cache_on(&device);
            let mut done = vec![0; all.len()];
            // What the parts leave over is the last chunk.
            for part in parts.iter().map(Some).chain([None]) {
                let left = all.iter().zip(&done).map(|(sequence, done)| sequence.length - done);
                let lengths: Vec<_> =
                    left.enumerate().map(|(s, left)| part.map_or(left, |part| part[s].min(left))).collect();
                let past: Vec<_> = all.iter().zip(&done).map(|(sequence, done)| sequence.past + done).collect();
                let chunk = chunk(&lengths, packed).after(&past).unwrap();
                let mut x = vec![0x7fff; chunk.shape().tokens() * channels];
                for ((from, to), done) in all.iter().zip(chunk.as_slice()).zip(&mut done) {
                    let numbers = to.length * channels;
                    let from = &case.x[(from.first + *done) * channels..][..numbers];
                    x[to.first * channels..][..numbers].copy_from_slice(from);
                    *done += to.length;
                }
                let x = tensor(&x, &chunk.shape().tensor(channels), dtype, &device);
                ops::append(&mut cache, &x, &chunk).unwrap();
            }
            prop_assert_eq!(&bits(&cache), &case.expected(), "{}", device);
        }
    }
}

/// Sequences of these lengths, packed or padded.
fn chunk(lengths: &[usize], packed: bool) -> Sequences {
    if !packed {
        return Sequences::padded(lengths.iter().max().map_or(0, |most| most + 1), lengths).unwrap();
    }
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    Sequences::packed(&offsets).unwrap()
}

/// A decoder that has just begun and one that is about to end, token by token until there is no room left.
#[test]
fn room_is_used_to_the_last_token() {
    for device in devices() {
        for dtype in DType::ALL {
            let (channels, room) = (3, 4);
            let mut cache = tensor(&[7; 24], &[2, room, channels], dtype, &device);
            for token in 0..room {
                let later = Sequences::batch(2, 1).unwrap().after(&[token; 2]).unwrap();
                let x = tensor(&[token as u32; 6], &[2, 1, channels], dtype, &device);
                ops::append(&mut cache, &x, &later).unwrap();
                let tokens = (0..room).map(|t| if t <= token { t as u32 } else { 7 });
                let one: Vec<u32> = tokens.flat_map(|t| [t; 3]).collect();
                assert_eq!(bits(&cache), one.repeat(2), "{device}");
            }
        }
    }
}
