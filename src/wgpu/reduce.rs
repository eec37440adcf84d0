//! Sums of parts, in a fixed order: see `shaders/reduce.wgsl`.

use crate::DType;
use crate::Result;
use crate::wgpu::limits::Limits;
use crate::wgpu::plan::{Launch, parameters};
use crate::wgpu::shader::{File, Kernel, WORKGROUP, code, store};

/// Parts of f32 numbers, one behind the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    /// How many.
    pub(crate) parts: usize,
    /// Numbers of each.
    pub(crate) count: usize,
    /// Offset of the first.
    pub(crate) offset: usize,
}

/// Their sum, number by number, as `dtype` from element `offset` of its binding on.
pub(crate) fn plan(of: Parts, dtype: DType, offset: usize, limits: &Limits) -> Result<Launch> {
    let groups = of.count.div_ceil(2 * WORKGROUP);
    let parameters = parameters(&[
        ("count", of.count),
        ("parts", of.parts),
        ("x_offset", of.offset),
        ("y_offset", offset),
        ("groups", groups),
        ("unused_1", 0),
        ("unused_2", 0),
        ("unused_3", 0),
    ])?;
    let whole_words = offset.is_multiple_of(2) && of.count.is_multiple_of(2);
    Launch::new(kernel(dtype, whole_words), groups as u64, parameters, limits)
}

fn kernel(dtype: DType, whole_words: bool) -> Kernel {
    Kernel {
        name: "reduce",
        workgroup: WORKGROUP,
        files: vec![File::Element, store(dtype, whole_words), File::Reduce],
        constants: vec![("Y", code(dtype))],
        inputs: 1,
    }
}

/// Every kernel that a plan can ask for.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    let halves = [DType::F16, DType::BF16].map(|dtype| kernel(dtype, false));
    DType::ALL.map(|dtype| kernel(dtype, true)).into_iter().chain(halves).collect()
}
