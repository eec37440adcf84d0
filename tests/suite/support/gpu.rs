use std::sync::LazyLock;

use ::wgpu::{
    Adapter, Backends, Buffer, BufferDescriptor, BufferUsages, DeviceDescriptor, Instance,
    InstanceDescriptor, Limits, MapMode, PollType, Queue,
};
use lightspan::reference::Estimate;
use lightspan::wgpu::{Elements, Gpu, Rows};
use lightspan::{Backend, DType, Device};
use pollster::block_on;
use proptest::test_runner::TestCaseError;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::{Slot, Values, devices};

/// The wgpu device that all operators are tested on; where tests are to do without one, that is said.
pub fn gpu_device() -> Option<Device> {
    let device = devices().into_iter().find(|device| device.backend() == Backend::Wgpu);
    if device.is_none() {
        eprintln!("SKIPPED: this test is of the wgpu room only");
    }
    device
}

/// The same adapter, found by a test itself.
pub fn adapter() -> Option<Adapter> {
    let device = gpu_device()?;
    let name = device.gpu().unwrap().name();
    let mut descriptor = InstanceDescriptor::new_without_display_handle();
    descriptor.backends = Backends::PRIMARY;
    let adapters = block_on(Instance::new(descriptor).enumerate_adapters(Backends::PRIMARY));
    Some(adapters.into_iter().find(|adapter| adapter.get_info().name == name).unwrap())
}

/// A device that a test makes itself, with no more than these limits.
pub fn own_device(limits: Limits) -> Option<(::wgpu::Device, Queue)> {
    let descriptor = DeviceDescriptor { required_limits: limits, ..Default::default() };
    Some(block_on(adapter()?.request_device(&descriptor)).unwrap())
}

/// The same, as a device for tensors.
pub fn device_with(limits: Limits) -> Option<Device> {
    own_device(limits).map(|(device, queue)| Device::from_wgpu(device, queue).unwrap())
}

/// A device with what every WebGPU device has, and nothing beyond.
pub fn default_device() -> Option<Device> {
    static DEVICE: LazyLock<Option<Device>> = LazyLock::new(|| device_with(Limits::default()));
    DEVICE.clone()
}

/// A buffer that holds `bytes`, padded with zeros to whole words.
pub fn buffer(gpu: &Gpu, bytes: &[u8]) -> Buffer {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4).max(4), 0);
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let buffer = empty(gpu, bytes.len() as u64, usage);
    gpu.queue().write_buffer(&buffer, 0, &bytes);
    buffer
}

/// A buffer that was never written.
pub fn empty(gpu: &Gpu, size: u64, usage: BufferUsages) -> Buffer {
    gpu.device().create_buffer(&BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
}

/// All bytes of a buffer, once what was submitted is done.
pub fn read(gpu: &Gpu, buffer: &Buffer) -> Vec<u8> {
    let copy = empty(gpu, buffer.size(), BufferUsages::COPY_DST | BufferUsages::MAP_READ);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
    gpu.queue().submit([encoder.finish()]);
    copy.map_async(MapMode::Read, .., |mapped| mapped.unwrap());
    gpu.device().poll(PollType::wait_indefinitely()).unwrap();
    let view = copy.get_mapped_range(..).unwrap();
    view.to_vec()
}

/// Puts tensors somewhere into buffers that hold other things as well.
pub struct Scatter<'a> {
    gpu: &'a Gpu,
    rng: SmallRng,
    /// What offsets and gaps are multiples of: with 2, 16-bit numbers that could fill whole words do.
    step: usize,
}

/// A tensor that calls read, with NaN around it and between its rows.
pub struct Input {
    buffer: Buffer,
    slot: Slot,
}

/// A tensor that calls write, with other bits around it and between its rows.
pub struct Output {
    gpu: Gpu,
    input: Input,
    dtype: DType,
    rows: usize,
    before: Vec<u8>,
}

impl<'a> Scatter<'a> {
    pub fn new(gpu: &'a Gpu, seed: u64, step: usize) -> Self {
        Scatter { gpu, rng: SmallRng::seed_from_u64(seed), step }
    }

    /// Rows of `width` numbers.
    pub fn rows(&mut self, values: &Values, width: usize) -> Input {
        let slot = Slot::draw(&mut self.rng, self.step, width);
        Input { buffer: buffer(self.gpu, slot.hold(values).bytes()), slot }
    }

    /// Rows of `width` numbers of these bits.
    pub fn bits(&mut self, bits: &[u32], width: usize, dtype: DType) -> Input {
        let slot = Slot::draw(&mut self.rng, self.step, width);
        Input { buffer: buffer(self.gpu, slot.hold_bits(bits, dtype).bytes()), slot }
    }

    /// Numbers side by side.
    pub fn elements(&mut self, values: &Values) -> Input {
        self.rows(values, values.data.len().max(1))
    }

    /// The same, where there are some.
    pub fn optional(&mut self, values: &Option<Values>) -> Option<Input> {
        values.as_ref().map(|values| self.elements(values))
    }

    /// Rows to write, of `width` numbers.
    pub fn output(&mut self, rows: usize, width: usize, dtype: DType) -> Output {
        let slot = Slot::draw(&mut self.rng, self.step, width);
        let before = slot.noise(&mut self.rng, rows, dtype);
        let input = Input { buffer: buffer(self.gpu, &before), slot };
        Output { gpu: self.gpu.clone(), input, dtype, rows, before }
    }

    /// Ids side by side, with others around them: their buffer, and where they begin.
    pub fn ids(&mut self, ids: &[u32]) -> (Buffer, usize) {
        let offset = self.rng.random_range(0..100);
        let all = [&vec![u32::MAX - 1; offset], ids, &[u32::MAX - 1; 3]].concat();
        (buffer(self.gpu, bytemuck::cast_slice(&all)), offset)
    }

    /// Scratch memory of just so many numbers, all of them NaN.
    pub fn scratch(&self, numbers: u64) -> Option<Buffer> {
        (numbers > 0).then(|| buffer(self.gpu, bytemuck::cast_slice(&vec![f32::NAN; numbers as usize])))
    }
}

impl Input {
    pub fn rows(&self) -> Rows<'_> {
        Rows::strided(self.elements(), self.slot.stride)
    }

    pub fn elements(&self) -> Elements<'_> {
        Elements::at(&self.buffer, self.slot.offset)
    }
}

impl Output {
    pub fn rows(&self) -> Rows<'_> {
        self.input.rows()
    }

    pub fn elements(&self) -> Elements<'_> {
        self.input.elements()
    }

    /// What its buffer holds, rows and all.
    pub fn bytes(&self) -> Vec<u8> {
        read(&self.gpu, &self.input.buffer)
    }

    /// The bits that its numbers had.
    pub fn bits_before(&self) -> Vec<u32> {
        self.input.slot.bits(&self.before, self.rows, self.dtype)
    }

    /// Fails unless every number has the bits that are expected, and everything around the rows those that it had.
    pub fn check_bits(&self, expected: &[u32]) -> Result<(), TestCaseError> {
        self.input.slot.check_bits(expected, self.dtype, &self.before, &self.bytes())
    }

    /// Fails unless every number is within its bound, and everything around the rows has the bits that it had.
    pub fn check(&self, expected: &[Estimate]) -> Result<(), TestCaseError> {
        let slot = self.input.slot;
        assert_eq!(expected.len(), self.rows * slot.width, "numbers of the output");
        slot.check(expected, self.dtype, &self.before, &self.bytes())
    }
}
