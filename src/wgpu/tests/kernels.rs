use ::wgpu::naga;
use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::wgpu::shader::{Kernel, WORKGROUP_BYTES};
use crate::wgpu::{Limits, attention, dynamic_conv, history, light_conv, linear, span_key};

/// Every kernel that any plan can ask for.
pub(super) fn kernels() -> Vec<Kernel> {
    [
        light_conv::kernels(),
        dynamic_conv::kernels(),
        span_key::kernels(),
        linear::kernels(),
        attention::kernels(),
        history::kernels(),
    ]
    .concat()
}

/// A kernel as naga reads it, validated for what every WebGPU device has (naga counts unpack2x16float as a capability).
pub(super) fn module(kernel: &Kernel) -> naga::Module {
    let (source, what) = (kernel.source(), format!("{} {:?}", kernel.name, kernel.constants));
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{what}: {}", error.emit_to_string(&source)));
    Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{what}: {}", error.emit_to_string(&source)));
    module
}

#[test]
fn every_kernel_is_valid_on_every_device() {
    let limits = Limits::default();
    let all = kernels();
    assert!(all.len() > 100, "{} kernels", all.len());
    for kernel in all {
        let (module, what) = (module(&kernel), format!("{} {:?}", kernel.name, kernel.constants));
        let entry = &module.entry_points[0];
        assert_eq!(entry.workgroup_size, [kernel.workgroup as u32, 1, 1], "{what}");
        assert!(kernel.workgroup <= limits.invocations as usize, "{what}");

        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let variables = || module.global_variables.iter().map(|(_, variable)| variable);
        let memory: u32 = variables()
            .filter(|variable| variable.space == naga::AddressSpace::WorkGroup)
            .map(|variable| layouter[variable.ty].size)
            .sum();
        assert!(memory as usize <= WORKGROUP_BYTES, "{what}: {memory} bytes of workgroup memory");
        assert!(WORKGROUP_BYTES <= limits.workgroup_memory as usize);

        // Binding 0 is the parameters, 1 the only output; every other has its place among the inputs.
        for variable in variables() {
            let Some(binding) = &variable.binding else { continue };
            assert_eq!(binding.group, 0, "{what}");
            assert!(binding.binding <= kernel.inputs + 1, "{what}: binding {}", binding.binding);
            let writes = matches!(variable.space, naga::AddressSpace::Storage { access }
                if access.contains(naga::StorageAccess::STORE));
            assert_eq!(writes, binding.binding == 1, "{what}: binding {}", binding.binding);
            let uniform = variable.space == naga::AddressSpace::Uniform;
            assert_eq!(uniform, binding.binding == 0, "{what}: binding {}", binding.binding);
        }
        let last = variables().filter_map(|variable| variable.binding.as_ref()).map(|at| at.binding).max();
        assert_eq!(last, Some(kernel.inputs + 1), "{what}");
        assert!(kernel.inputs < limits.storage_buffers, "{what}");
    }
}

/// A kernel per combination of types: nothing that a width, a length or a number of heads could add to.
#[test]
fn no_size_is_part_of_a_kernel() {
    let names = ["X", "Y", "P", "S", "Q", "SPLIT", "PAIRED", "GENERATED", "HALVES"];
    let tiles = ["ROW_QUADS", "COLUMN_QUADS", "BLOCKS", "WEIGHTED"];
    for kernel in kernels() {
        for (name, value) in &kernel.constants {
            assert!(
                names.contains(name) && *value <= 2 || tiles.contains(name) && *value <= 16,
                "{kernel:?}"
            );
        }
    }
}
