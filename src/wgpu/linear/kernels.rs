//! The kernels of the gradients of a linear layer.

use crate::DType;
use crate::wgpu::linear::products::{Factor, Incoming};
use crate::wgpu::shader::{File, Kernel, WORKGROUP, code, store};

/// What a product of da is over, and of which types.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    /// Over the tokens, da^T x; otherwise over the outputs, da W.
    pub(super) tokens: bool,
    /// Of x, or W.
    pub(super) b: DType,
    pub(super) y: DType,
}

/// What dy goes through, as the kernels name it, and its type.
fn factor(incoming: Incoming) -> (u32, DType) {
    match incoming.factor {
        None => (0, DType::F32),
        Some(Factor::Relu(dtype)) => (1, dtype),
        Some(Factor::Times(dtype)) => (2, dtype),
    }
}

pub(super) fn product_kernel(
    incoming: Incoming,
    over: Over,
    addend: bool,
    paired: bool,
    whole_words: bool,
    row_quads: usize,
) -> Kernel {
    let (factor, factor_dtype) = factor(incoming);
    let all_wide = [incoming.dy, factor_dtype, over.b].into_iter().all(|dtype| dtype == DType::F32);
    let rows = if over.tokens { File::StageRowsAcross } else { File::StageRows };
    Kernel {
        name: "linear_backward",
        workgroup: WORKGROUP,
        files: vec![
            File::Element,
            store(over.y, whole_words),
            File::StoreQuad,
            File::Memory,
            File::Blocks,
            File::Product,
            rows,
            File::StageColumnsAcross,
            File::LinearBackwardIncoming,
            File::LinearBackwardProduct,
        ],
        constants: vec![
            ("X", code(incoming.dy)),
            ("FACTOR", factor),
            ("Q", code(factor_dtype)),
            ("B", code(over.b)),
            ("Y", code(over.y)),
            ("OVER_TOKENS", u32::from(over.tokens)),
            ("ADDEND", u32::from(addend)),
            ("PAIRED", u32::from(paired && !all_wide)),
            ("ROW_QUADS", row_quads as u32),
            ("COLUMN_QUADS", 1),
        ],
        inputs: 5,
    }
}

pub(super) fn columns_kernel(incoming: Incoming, paired: bool, y: DType, whole_words: bool) -> Kernel {
    let (factor, factor_dtype) = factor(incoming);
    let all_wide = incoming.dy == DType::F32 && factor_dtype == DType::F32;
    Kernel {
        name: "linear_backward",
        workgroup: WORKGROUP,
        files: vec![
            File::Element,
            store(y, whole_words),
            File::LinearBackwardIncoming,
            File::LinearBackwardColumns,
        ],
        constants: vec![
            ("X", code(incoming.dy)),
            ("FACTOR", factor),
            ("Q", code(factor_dtype)),
            ("Y", code(y)),
            ("PAIRED", u32::from(paired && !all_wide)),
        ],
        inputs: 3,
    }
}

/// Every kernel that a plan can ask for, of any operator.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    let mut all = vec![];
    let mut add = |kernel: Kernel| {
        if !all.contains(&kernel) {
            all.push(kernel);
        }
    };
    for (dtype, parameters) in crate::wgpu::shader::types() {
        let plain = |dy| Incoming { dy, factor: None };
        let times = |dy| Incoming { dy, factor: Some(Factor::Times(dtype)) };
        let relu = Incoming { dy: dtype, factor: Some(Factor::Relu(dtype)) };
        // Of linear layers, of generators, and of the keys of spans, whose gradient on the way is f32.
        let layers = [plain(dtype), relu, plain(DType::F32), times(dtype), times(DType::F32)];
        for (incoming, bits) in layers.into_iter().flat_map(|layer| (0..8).map(move |bits| (layer, bits))) {
            let (paired, whole_words, quads) = (bits & 1 == 1, bits & 2 == 2, 1 + (bits >> 2));
            for y in [dtype, DType::F32] {
                let input = Over { tokens: false, b: parameters, y };
                for addend in [false, true] {
                    add(product_kernel(incoming, input, addend, paired, whole_words, quads));
                }
                for x in [dtype, DType::F32] {
                    let weight = Over { tokens: true, b: x, y };
                    add(product_kernel(incoming, weight, false, paired, whole_words, quads));
                }
                add(columns_kernel(incoming, paired, y, whole_words));
            }
        }
    }
    all
}
