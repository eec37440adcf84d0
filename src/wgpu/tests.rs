//! What holds of all kernels and plans, without a device.

use ::wgpu::naga;
use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::wgpu::shader::Kernel;
use crate::wgpu::{Limits, attention, dynamic_conv, history, light_conv, linear, span_key};

/// Every kernel that any plan can ask for.
fn kernels() -> Vec<Kernel> {
    let all = [
        light_conv::kernels(),
        dynamic_conv::kernels(),
        linear::kernels(),
        span_key::kernels(),
        history::kernels(),
        attention::kernels(),
    ];
    all.concat()
}

#[test]
fn every_kernel_is_valid_on_every_device() {
    let limits = Limits::default();
    let all = kernels();
    assert!(all.len() > 60, "{} kernels", all.len());
    for kernel in all {
        let source = kernel.source();
        let what = format!("{} {:?}", kernel.name, kernel.constants);
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|error| panic!("{what}: {}", error.emit_to_string(&source)));
        // What every WebGPU device has, of which naga counts unpack2x16float as a capability.
        Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32)
            .validate(&module)
            .unwrap_or_else(|error| panic!("{what}: {}", error.emit_to_string(&source)));
        let entry = &module.entry_points[0];
        assert!(entry.workgroup_size.iter().product::<u32>() <= limits.invocations, "{what}");
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let memory: u32 = module
            .global_variables
            .iter()
            .filter(|(_, variable)| variable.space == naga::AddressSpace::WorkGroup)
            .map(|(_, variable)| layouter[variable.ty].size)
            .sum();
        assert!(memory <= limits.workgroup_memory, "{what}: {memory} bytes of workgroup memory");
        let buffers: Vec<u32> = module
            .global_variables
            .iter()
            .filter(|(_, variable)| matches!(variable.space, naga::AddressSpace::Storage { .. }))
            .map(|(_, variable)| variable.binding.unwrap().binding)
            .collect();
        assert!(buffers.len() <= limits.storage_buffers as usize, "{what}");
        assert_eq!(*buffers.iter().max().unwrap(), kernel.inputs + 1, "{what}: bindings {buffers:?}");
    }
}
