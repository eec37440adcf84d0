use crate::gpu::within;
use crate::problem::Convolution;
use crate::{DType, Result};

/// What a device allows, as far as plans depend on it.
///
/// The default is what every WebGPU device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory that a workgroup shares.
    pub workgroup_memory: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
    /// Workgroups in each of the three dimensions of a dispatch.
    pub groups: u32,
    /// Storage buffers that a kernel reads and writes.
    pub storage_buffers: u32,
    /// Bytes of one storage binding.
    pub binding: u64,
    /// Bytes of one buffer.
    pub buffer: u64,
    /// What the offset of a storage binding must be a multiple of, in bytes.
    pub offset_alignment: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits::from(&::wgpu::Limits::default())
    }
}

impl From<&::wgpu::Limits> for Limits {
    fn from(limits: &::wgpu::Limits) -> Self {
        Limits {
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            invocations: limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x),
            groups: limits.max_compute_workgroups_per_dimension,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            binding: limits.max_storage_buffer_binding_size,
            buffer: limits.max_buffer_size,
            offset_alignment: limits.min_storage_buffer_offset_alignment,
        }
    }
}

impl Limits {
    /// An error where a binding of so many bytes is more than the device allows.
    pub(crate) fn check_binding(&self, tensor: &'static str, bytes: u64) -> Result<()> {
        within("bytes of", tensor, bytes, self.binding.min(self.buffer))
    }

    /// An error where one of these tensors, each with its name, sizes and type, is more than a binding may hold.
    pub(crate) fn check_tensors(&self, tensors: &[(&'static str, &[usize], DType)]) -> Result<()> {
        for &(name, sizes, dtype) in tensors {
            let bytes = |bytes: u64, &size: &usize| bytes.saturating_mul(size as u64);
            self.check_binding(name, sizes.iter().fold(dtype.size() as u64, bytes))?;
        }
        Ok(())
    }

    /// The same for the tensors of a convolution: x, history and y.
    pub(crate) fn check_convolution(&self, conv: &Convolution, names: [&'static str; 3]) -> Result<()> {
        let tokens = [conv.sequences().tokens(), conv.channels()];
        let history = if conv.has_history() { conv.history_shape() } else { [0; 3] };
        let [x, past, y] = names;
        let dtype = conv.dtype();
        self.check_tensors(&[(x, &tokens, dtype), (past, &history, dtype), (y, &tokens, dtype)])
    }

    /// A grid of at least `groups` workgroups, as few more as three dimensions allow.
    pub(crate) fn grid(&self, groups: u64) -> Result<[u32; 3]> {
        let side = u64::from(self.groups);
        // Kernels count workgroups in 32 bits.
        within("workgroups of", "the call", groups, side.saturating_pow(3).min(u64::from(u32::MAX)))?;
        let z = groups.div_ceil(side.saturating_mul(side)).max(1);
        let y = groups.div_ceil(z * side).max(1);
        let x = groups.div_ceil(z * y);
        Ok([x, y, z].map(|size| size as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn grids_hold_all_groups_and_few_more() {
        let limits = Limits::default();
        for groups in [0, 1, 7, 65_535, 65_536, 70_001, 65_535 * 65_535, 65_535 * 65_535 + 1, 4_294_967_295] {
            let [x, y, z] = limits.grid(groups).unwrap();
            let held = u64::from(x) * u64::from(y) * u64::from(z);
            assert!([x, y, z].iter().all(|&size| size <= limits.groups), "{groups}: {x} x {y} x {z}");
            assert!(held >= groups && held - groups <= groups / 1000 + 1, "{groups}: {x} x {y} x {z}");
        }
        let too_many = Error::Limit {
            what: "workgroups of",
            of: "the call",
            needed: 1 << 32,
            limit: u64::from(u32::MAX),
        };
        assert_eq!(limits.grid(1 << 32), Err(too_many));
    }
}
