use lightspan::cuda::{Elements, ElementsMut, Ids, IdsMut, Rows, RowsMut};
use lightspan::reference::Estimate;
use lightspan::{Backend, DType, Device, Element, Tensor, Tokens, bf16, f16};
use proptest::test_runner::TestCaseError;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::{Memory, Slot, Values, devices};

/// The GPU that operators are tested on, or the emulator; where tests are to do without either, that is said.
pub fn cuda_device() -> Option<Device> {
    let wanted = [Backend::Cuda, Backend::CudaEmulated];
    let device = devices().into_iter().find(|device| wanted.contains(&device.backend()));
    if device.is_none() {
        eprintln!("SKIPPED: this test is of the CUDA room only");
    }
    device
}

/// Puts tensors somewhere into memory that holds other things as well.
pub struct Scatter<'a> {
    device: &'a Device,
    rng: SmallRng,
    /// What offsets and gaps are multiples of: with 8, rows of 16-bit numbers may be aligned to 16 bytes.
    step: usize,
}

/// A tensor that calls read, with NaN around it and between its rows.
pub struct Input {
    memory: Tensor,
    slot: Slot,
}

/// A tensor that calls write, with other bits around it and between its rows.
pub struct Output {
    input: Input,
    rows: usize,
    before: Vec<u8>,
}

/// Scratch memory, and numbers before it that are nobody's.
pub struct Scratch {
    memory: Tensor,
    before: usize,
}

impl Scratch {
    pub fn elements(&mut self) -> ElementsMut<'_> {
        self.memory.cuda_mut().unwrap().at(self.before)
    }
}

impl Drop for Scratch {
    /// Fails where a call wrote before its scratch.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let numbers = self.memory.to_vec::<f32>().unwrap();
            assert!(
                numbers[..self.before].iter().all(|number| number.is_nan()),
                "written before scratch begins"
            );
        }
    }
}

impl<'a> Scatter<'a> {
    pub fn new(device: &'a Device, seed: u64, step: usize) -> Self {
        Scatter { device, rng: SmallRng::seed_from_u64(seed), step }
    }

    /// Rows of `width` numbers.
    pub fn rows(&mut self, values: &Values, width: usize) -> Input {
        let slot = Slot::draw(&mut self.rng, self.step, width);
        self.held(slot, slot.hold(values))
    }

    /// Rows of `width` numbers of these bits.
    pub fn bits(&mut self, bits: &[u32], width: usize, dtype: DType) -> Input {
        let slot = Slot::draw(&mut self.rng, self.step, width);
        self.held(slot, slot.hold_bits(bits, dtype))
    }

    fn held(&self, slot: Slot, memory: Memory) -> Input {
        let memory = match memory {
            Memory::F32(data) => Tensor::from_slice(&data, &[data.len()], self.device),
            Memory::F16(data) => Tensor::from_slice(&data, &[data.len()], self.device),
            Memory::BF16(data) => Tensor::from_slice(&data, &[data.len()], self.device),
        };
        Input { memory: memory.unwrap(), slot }
    }

    /// Numbers side by side.
    pub fn elements(&mut self, values: &Values) -> Input {
        self.rows(values, values.data.len().max(1))
    }

    /// The same, where there are some.
    pub fn optional(&mut self, values: &Option<Values>) -> Option<Input> {
        values.as_ref().map(|values| self.elements(values))
    }

    /// Scratch memory of just so many numbers, all of them NaN. It may begin at any number, as all memory may.
    pub fn scratch(&mut self, numbers: u64) -> Option<Scratch> {
        let before = self.rng.random_range(0..4);
        let nan = vec![f32::NAN; before + numbers as usize];
        let scratch =
            || Scratch { memory: Tensor::from_slice(&nan, &[nan.len()], self.device).unwrap(), before };
        (numbers > 0).then(scratch)
    }

    /// Ids side by side, with others around them.
    pub fn ids(&mut self, ids: &[u32]) -> IdSlot {
        let offset = self.rng.random_range(0..9);
        let all = [&vec![u32::MAX - 1; offset], ids, &[u32::MAX - 1; 3]].concat();
        let memory = Tokens::from_slice(&all, &[all.len()], self.device).unwrap();
        IdSlot { memory, offset, len: ids.len() }
    }

    /// Rows to write, of `width` numbers.
    pub fn output(&mut self, rows: usize, width: usize, dtype: DType) -> Output {
        let slot = Slot::draw(&mut self.rng, self.step, width);
        let before = slot.noise(&mut self.rng, rows, dtype);
        fn tensor<E: Element>(bytes: &[u8], device: &Device) -> Tensor {
            let values: Vec<E> = bytemuck::pod_collect_to_vec(bytes);
            Tensor::from_slice(&values, &[values.len()], device).unwrap()
        }
        let memory = match dtype {
            DType::F16 => tensor::<f16>(&before, self.device),
            DType::BF16 => tensor::<bf16>(&before, self.device),
            _ => tensor::<f32>(&before, self.device),
        };
        Output { input: Input { memory, slot }, rows, before }
    }
}

/// Ids that calls read or write, with others around them.
pub struct IdSlot {
    memory: Tokens,
    offset: usize,
    len: usize,
}

impl IdSlot {
    pub fn ids(&self) -> Ids<'_> {
        self.memory.cuda().unwrap().at(self.offset)
    }

    pub fn ids_mut(&mut self) -> IdsMut<'_> {
        self.memory.cuda_mut().unwrap().at(self.offset)
    }

    /// The ids, once it is seen that those around them are as they were.
    pub fn written(&self) -> Vec<u32> {
        let all = self.memory.to_vec().unwrap();
        let end = self.offset + self.len;
        let mut around = all[..self.offset].iter().chain(&all[end..]);
        assert!(around.all(|&id| id == u32::MAX - 1), "written beside the ids");
        all[self.offset..end].to_vec()
    }
}

impl Input {
    pub fn rows(&self) -> Rows<'_> {
        Rows::strided(self.elements(), self.slot.stride)
    }

    pub fn elements(&self) -> Elements<'_> {
        self.memory.cuda().unwrap().at(self.slot.offset)
    }
}

impl Output {
    pub fn rows(&mut self) -> RowsMut<'_> {
        let stride = self.input.slot.stride;
        RowsMut::strided(self.elements(), stride)
    }

    pub fn elements(&mut self) -> ElementsMut<'_> {
        let offset = self.input.slot.offset;
        self.input.memory.cuda_mut().unwrap().at(offset)
    }

    /// Fails unless every number is within its bound, and everything around the rows has the bits that it had.
    pub fn check(&self, expected: &[Estimate]) -> Result<(), TestCaseError> {
        let Input { memory, slot } = &self.input;
        slot.check(expected, memory.dtype(), &self.before, &self.bytes())
    }

    /// The bits that its numbers had.
    pub fn bits_before(&self) -> Vec<u32> {
        let Input { memory, slot } = &self.input;
        slot.bits(&self.before, self.rows, memory.dtype())
    }

    /// Fails unless every number has the bits that are expected, and everything around the rows those that it had.
    pub fn check_bits(&self, expected: &[u32]) -> Result<(), TestCaseError> {
        let Input { memory, slot } = &self.input;
        slot.check_bits(expected, memory.dtype(), &self.before, &self.bytes())
    }

    fn bytes(&self) -> Vec<u8> {
        fn bytes<E: Element>(memory: &Tensor) -> Vec<u8> {
            bytemuck::cast_slice(&memory.to_vec::<E>().unwrap()).to_vec()
        }
        let memory = &self.input.memory;
        match memory.dtype() {
            DType::F16 => bytes::<f16>(memory),
            DType::BF16 => bytes::<bf16>(memory),
            _ => bytes::<f32>(memory),
        }
    }
}
