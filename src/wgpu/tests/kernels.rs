use naga::back::{hlsl, msl};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};

use crate::wgpu::shader::{Kernel, WORKGROUP_BYTES};
use crate::wgpu::{
    Limits, append, attention, dynamic_conv, embedding, history, light_conv, linear, norm, reduce, span_key,
    top_k,
};

/// Every kernel that any plan can ask for.
pub(super) fn kernels() -> Vec<Kernel> {
    [
        light_conv::kernels(),
        light_conv::backward_kernels(),
        dynamic_conv::band::kernels(),
        dynamic_conv::kernels(),
        span_key::kernels(),
        linear::kernels(),
        append::kernels(),
        attention::kernels(),
        embedding::kernels(),
        history::kernels(),
        norm::kernels(),
        reduce::kernels(),
        top_k::kernels(),
    ]
    .concat()
}

/// A kernel as naga reads it.
pub(super) fn module(kernel: &Kernel) -> naga::Module {
    validated(kernel).0
}

/// The same with what validation found, for what every WebGPU device has (naga counts unpack2x16float as a capability).
fn validated(kernel: &Kernel) -> (naga::Module, ModuleInfo) {
    let (source, what) = (kernel.source(), format!("{} {:?}", kernel.name, kernel.constants));
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{what}: {}", error.emit_to_string(&source)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{what}: {}", error.emit_to_string(&source)));
    (module, info)
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

/// For `shaders/tint.mjs`: writes every kernel as a file into the folder that `LIGHTSPAN_WRITE_KERNELS` names.
#[test]
fn kernels_are_written_where_asked() {
    let Ok(folder) = std::env::var("LIGHTSPAN_WRITE_KERNELS") else { return };
    std::fs::create_dir_all(&folder).unwrap();
    for (i, kernel) in kernels().iter().enumerate() {
        std::fs::write(format!("{folder}/{}_{i}.wgsl", kernel.name), kernel.source()).unwrap();
    }
}

/// What wgpu hands to the compilers of Metal and DX12 can be written for every kernel.
#[test]
fn every_kernel_can_be_written_for_metal_and_dx12() {
    for kernel in kernels() {
        let (module, info) = validated(&kernel);
        let what = format!("{} {:?}", kernel.name, kernel.constants);
        let options = msl::Options { lang_version: (2, 0), ..Default::default() };
        let (metal, _) = msl::write_string(&module, &info, &options, &Default::default())
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(metal.contains("kernel void"), "{what}");
        let (mut text, options, pipeline) =
            (String::new(), hlsl::Options::default(), hlsl::PipelineOptions { entry_point: None });
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(text.contains("numthreads"), "{what}");
    }
}

/// WGSL wants parentheses where a shift or a bitwise operator meets any other: naga does not mind, browsers do.
#[test]
fn operators_are_in_parentheses() {
    for kernel in kernels() {
        for line in kernel.source().lines() {
            let code = line.split("//").next().unwrap_or("");
            assert!(!mixes(code), "{}: {line}", kernel.name);
        }
    }
    for mixed in ["a >> b & c", "x = a << b + c", "f(a & b == c)", "a && b || c", "(a | b ^ c)"] {
        assert!(mixes(mixed), "{mixed}");
    }
    for clear in [
        "(a >> b) & c",
        "a & b, c + d",
        "vec2<f32>(a & b)",
        "if a && (b || c) {",
        "-> vec4<u32> {",
        "a >= b && c",
    ] {
        assert!(!mixes(clear), "{clear}");
    }
}

/// Whether operators that WGSL gives no precedence meet without parentheses.
fn mixes(code: &str) -> bool {
    // A letter for each operator of two characters, once names and numbers are gone: shifts, and, or, comparisons.
    let marked = [(">>", "S"), ("<<", "S"), ("&&", "A"), ("||", "O"), ("->", ";")];
    let compared = [(">=", "C"), ("<=", "C"), ("==", "C"), ("!=", "C")];
    let is_name = |c: char| c.is_alphanumeric() || "_.".contains(c);
    let bare: String = code.chars().map(|c| if is_name(c) { ' ' } else { c }).collect();
    let mut rest = marked.iter().chain(&compared).fold(bare, |code, (from, to)| code.replace(from, to));
    while let Some(close) = rest.find([')', ']']) {
        let open = rest[..close].rfind(['(', '[']).map_or(0, |open| open + 1);
        if level_mixes(&rest[open..close]) {
            return true;
        }
        rest.replace_range(open.saturating_sub(1)..=close, " ");
    }
    level_mixes(&rest)
}

/// The same where no parentheses are left.
fn level_mixes(code: &str) -> bool {
    code.split([',', ';', '{', '}', ':', '=', '(', '[']).any(|part| {
        let has = |operators: &str| part.contains(|c| operators.contains(c));
        let bits = ["&", "|", "^"].into_iter().filter(|&bit| has(bit)).count();
        has("S") && (bits > 0 || has("+-*/%")) || bits > 0 && has("+*/%C") || bits > 1 || has("A") && has("O")
    })
}

/// A kernel per combination of types: nothing that a width, a length or a number of heads could add to.
#[test]
fn no_size_is_part_of_a_kernel() {
    let types = ["X", "Y", "P", "S", "Q", "B"];
    let forms = [
        "SPLIT",
        "PAIRED",
        "PAIRS",
        "GENERATED",
        "HALVES",
        "PER_STEP",
        "FACTOR",
        "OVER_TOKENS",
        "ADDEND",
        "TRANSPOSED",
        "MEANS",
        "GRADIENT",
        "DROPOUT",
        "SUM",
        "VALUES",
    ];
    let tiles = ["ROW_QUADS", "COLUMN_QUADS", "BLOCKS", "WEIGHTED", "VALUE_QUADS", "TAP_QUADS"];
    for kernel in kernels() {
        for (name, value) in &kernel.constants {
            assert!(
                (types.contains(name) || forms.contains(name)) && *value <= 2
                    || tiles.contains(name) && *value <= 16,
                "{kernel:?}"
            );
        }
    }
}
