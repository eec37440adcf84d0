/// What a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Compute capability, major and minor.
    pub capability: [u32; 2],
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that a block may have.
    pub shared_memory: u32,
    /// Blocks of a grid.
    pub blocks: u32,
}

impl Limits {
    /// Those of an A100: compute capability 8.0.
    pub const A100: Limits = Limits::new([8, 0], 108, 163 << 10);
    /// Those of an L4: compute capability 8.9, which has the least shared memory of what the kernels run on.
    pub const L4: Limits = Limits::new([8, 9], 58, 99 << 10);
    /// Those of an H100: compute capability 9.0.
    pub const H100: Limits = Limits::new([9, 0], 132, 227 << 10);

    const fn new(capability: [u32; 2], multiprocessors: u32, shared_memory: u32) -> Self {
        Limits { capability, multiprocessors, shared_memory, blocks: i32::MAX as u32 }
    }
}
