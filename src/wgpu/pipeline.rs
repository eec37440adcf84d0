use ::wgpu::{
    BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingType, BufferBindingType,
    ComputePipeline, ComputePipelineDescriptor, PipelineCompilationOptions, PipelineLayoutDescriptor,
    ShaderModule, ShaderModuleDescriptor, ShaderRuntimeChecks, ShaderSource, ShaderStages,
};

use crate::Result;
use crate::wgpu::gpu::Gpu;
use crate::wgpu::shader::Kernel;

/// A compiled kernel.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: ComputePipeline,
    pub(crate) layout: BindGroupLayout,
}

impl Pipeline {
    pub(crate) fn new(gpu: &Gpu, kernel: &Kernel) -> Result<Self> {
        let pipeline = gpu.scoped(kernel.name, 0, || {
            let device = gpu.device();
            let module = module(gpu, kernel);
            let entries: Vec<_> = (0..kernel.inputs + 2)
                .map(|binding| BindGroupLayoutEntry {
                    binding,
                    visibility: ShaderStages::COMPUTE,
                    ty: BindingType::Buffer {
                        ty: match binding {
                            0 => BufferBindingType::Uniform,
                            output => BufferBindingType::Storage { read_only: output != 1 },
                        },
                        has_dynamic_offset: false,
                        min_binding_size: None,
                    },
                    count: None,
                })
                .collect();
            let layout = device.create_bind_group_layout(&BindGroupLayoutDescriptor {
                label: Some(kernel.name),
                entries: &entries,
            });
            let pipeline_layout = device.create_pipeline_layout(&PipelineLayoutDescriptor {
                label: Some(kernel.name),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let pipeline = device.create_compute_pipeline(&ComputePipelineDescriptor {
                label: Some(kernel.name),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: PipelineCompilationOptions {
                    // Kernels write all workgroup memory before they read it.
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            });
            Pipeline { pipeline, layout }
        })?;
        gpu.present()?;
        Ok(pipeline)
    }
}

fn module(gpu: &Gpu, kernel: &Kernel) -> ShaderModule {
    let descriptor = ShaderModuleDescriptor {
        label: Some(kernel.name),
        source: ShaderSource::Wgsl(kernel.source().into()),
    };
    if cfg!(debug_assertions) {
        return gpu.device().create_shader_module(descriptor);
    }
    // SAFETY: the kernels prove their own bounds. Every index into a binding is offset + row * stride + column, with the
    // row below the rows of a sequence and the column below the tensor's columns: the kernels test both before they load
    // or store, and `Binder` checked on the host that the binding holds offset + (rows - 1) * stride + columns elements
    // and that none of these numbers is past 32 bits. Rows of sequences come from `DeviceSequences`, which nobody else
    // writes, and which `DeviceSequences::check` holds to the problem's shape; tokens of a history are read only where
    // there is one, as `Binder::convolved` sees to, and those past the room of a cache are not written. Indices into workgroup memory are below the rows and quads that the
    // plan chose for MEMORY, as a test of all plans asserts, or below the invocations. Divisors are sizes that plans and
    // problems keep above zero, and every loop counts up to a size. The tests run with all checks on.
    unsafe { gpu.device().create_shader_module_trusted(descriptor, ShaderRuntimeChecks::unchecked()) }
}
