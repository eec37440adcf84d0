//! From the files in `shaders/` to the text of a kernel.
//!
//! A kernel is its operator's file, the shared files that it builds on, and constants in front of them. There is no
//! preprocessor: WGSL does not care for the order of declarations and drops what a constant switches off, so putting
//! texts together is all that it takes, every file is plain WGSL that any tool reads, and the variants of one thing (an
//! invocation works on one channel or on two) are files that declare the same names.

use std::fmt::Write;

use crate::DType;
use crate::gpu::STEPS;

/// Invocations of a workgroup, unless a kernel has its own number.
pub(crate) const WORKGROUP: usize = 256;

/// How deep the operands of a product are staged.
pub(crate) const DEPTH: usize = 16;

/// Quads of numbers in a workgroup's memory: 15 of the 16 KiB that every device has; the rest is for what invocations tell
/// one another.
pub(crate) const MEMORY: usize = 960;

/// Bytes of workgroup memory that a kernel takes at most.
pub(crate) const WORKGROUP_BYTES: usize = 16 * MEMORY + 4 * WORKGROUP;

/// A file in `shaders/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum File {
    Attention,
    AttentionOperands,
    AttentionTwoOperands,
    Bits,
    Blocks,
    Convolve,
    Dropout,
    Element,
    GatheredTaps,
    GivenTaps,
    Gradient,
    LaneOne,
    LaneTwo,
    Logits,
    Memory,
    Product,
    StageColumns,
    StageColumnsAcross,
    StageRows,
    StageRowsAcross,
    StageScores,
    StageValues,
    StoreHalves,
    StoreQuad,
    StoreWords,
    Taps,
    Tiles,
    Window,
    Append,
    AttentionBackwardFused,
    AttentionBackwardMean,
    AttentionBackwardNaiveScores,
    AttentionBackwardStatistics,
    AttentionFused,
    AttentionNaiveScores,
    AttentionNaiveSoftmax,
    AttentionNaiveValues,
    DynamicConv,
    DynamicConvBackwardLogits,
    DynamicConvBackwardRows,
    DynamicConvBackwardStatistics,
    DynamicConvBackwardSums,
    Embedding,
    History,
    LightConv,
    LightConvBackwardReduce,
    LightConvBackwardWeight,
    Activation,
    Linear,
    LinearBackwardColumns,
    LinearBackwardIncoming,
    LinearBackwardProduct,
    Norm,
    Reduce,
    SpanKey,
    SpanKeyBackwardConvolve,
    SpanKeyBackwardFilters,
    TopK,
}

impl File {
    fn text(self) -> &'static str {
        match self {
            File::Attention => include_str!("../../shaders/shared/attention.wgsl"),
            File::AttentionOperands => include_str!("../../shaders/shared/attention_operands.wgsl"),
            File::AttentionTwoOperands => include_str!("../../shaders/shared/attention_two_operands.wgsl"),
            File::Bits => include_str!("../../shaders/shared/bits.wgsl"),
            File::Blocks => include_str!("../../shaders/shared/blocks.wgsl"),
            File::Convolve => include_str!("../../shaders/shared/convolve.wgsl"),
            File::Dropout => include_str!("../../shaders/shared/dropout.wgsl"),
            File::Element => include_str!("../../shaders/shared/element.wgsl"),
            File::GatheredTaps => include_str!("../../shaders/shared/gathered_taps.wgsl"),
            File::GivenTaps => include_str!("../../shaders/shared/given_taps.wgsl"),
            File::Gradient => include_str!("../../shaders/shared/gradient.wgsl"),
            File::LaneOne => include_str!("../../shaders/shared/lane_one.wgsl"),
            File::LaneTwo => include_str!("../../shaders/shared/lane_two.wgsl"),
            File::Logits => include_str!("../../shaders/shared/logits.wgsl"),
            File::Memory => include_str!("../../shaders/shared/memory.wgsl"),
            File::Product => include_str!("../../shaders/shared/product.wgsl"),
            File::StageColumns => include_str!("../../shaders/shared/stage_columns.wgsl"),
            File::StageColumnsAcross => include_str!("../../shaders/shared/stage_columns_across.wgsl"),
            File::StageRowsAcross => include_str!("../../shaders/shared/stage_rows_across.wgsl"),
            File::StageRows => include_str!("../../shaders/shared/stage_rows.wgsl"),
            File::StageScores => include_str!("../../shaders/shared/stage_scores.wgsl"),
            File::StageValues => include_str!("../../shaders/shared/stage_values.wgsl"),
            File::StoreHalves => include_str!("../../shaders/shared/store_halves.wgsl"),
            File::StoreQuad => include_str!("../../shaders/shared/store_quad.wgsl"),
            File::StoreWords => include_str!("../../shaders/shared/store_words.wgsl"),
            File::Taps => include_str!("../../shaders/shared/taps.wgsl"),
            File::Tiles => include_str!("../../shaders/shared/tiles.wgsl"),
            File::Window => include_str!("../../shaders/shared/window.wgsl"),
            File::Append => include_str!("../../shaders/append.wgsl"),
            File::AttentionBackwardFused => include_str!("../../shaders/attention_backward/fused.wgsl"),
            File::AttentionBackwardMean => include_str!("../../shaders/attention_backward/mean.wgsl"),
            File::AttentionBackwardNaiveScores => {
                include_str!("../../shaders/attention_backward/naive_scores.wgsl")
            }
            File::AttentionBackwardStatistics => {
                include_str!("../../shaders/attention_backward/statistics.wgsl")
            }
            File::AttentionFused => include_str!("../../shaders/attention/fused.wgsl"),
            File::AttentionNaiveScores => include_str!("../../shaders/attention/naive_scores.wgsl"),
            File::AttentionNaiveSoftmax => include_str!("../../shaders/attention/naive_softmax.wgsl"),
            File::AttentionNaiveValues => include_str!("../../shaders/attention/naive_values.wgsl"),
            File::DynamicConv => include_str!("../../shaders/dynamic_conv.wgsl"),
            File::DynamicConvBackwardLogits => {
                include_str!("../../shaders/dynamic_conv_backward/logits.wgsl")
            }
            File::DynamicConvBackwardRows => include_str!("../../shaders/dynamic_conv_backward/rows.wgsl"),
            File::DynamicConvBackwardStatistics => {
                include_str!("../../shaders/dynamic_conv_backward/statistics.wgsl")
            }
            File::DynamicConvBackwardSums => include_str!("../../shaders/dynamic_conv_backward/sums.wgsl"),
            File::Embedding => include_str!("../../shaders/embedding.wgsl"),
            File::History => include_str!("../../shaders/history.wgsl"),
            File::LightConv => include_str!("../../shaders/light_conv.wgsl"),
            File::LightConvBackwardReduce => include_str!("../../shaders/light_conv_backward/reduce.wgsl"),
            File::LightConvBackwardWeight => include_str!("../../shaders/light_conv_backward/weight.wgsl"),
            File::Activation => include_str!("../../shaders/shared/activation.wgsl"),
            File::Linear => include_str!("../../shaders/linear.wgsl"),
            File::LinearBackwardColumns => include_str!("../../shaders/linear_backward/columns.wgsl"),
            File::LinearBackwardIncoming => include_str!("../../shaders/linear_backward/incoming.wgsl"),
            File::LinearBackwardProduct => include_str!("../../shaders/linear_backward/product.wgsl"),
            File::Norm => include_str!("../../shaders/norm.wgsl"),
            File::Reduce => include_str!("../../shaders/reduce.wgsl"),
            File::SpanKey => include_str!("../../shaders/span_key.wgsl"),
            File::SpanKeyBackwardConvolve => include_str!("../../shaders/span_key_backward/convolve.wgsl"),
            File::SpanKeyBackwardFilters => include_str!("../../shaders/span_key_backward/filters.wgsl"),
            File::TopK => include_str!("../../shaders/top_k.wgsl"),
        }
    }
}

/// What a kernel reads and writes at each binding: the uniform parameters at 0, the output at 1, inputs from 2 on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    /// The operator.
    pub(crate) name: &'static str,
    /// Invocations of a workgroup.
    pub(crate) workgroup: usize,
    /// Its file, after those that it builds on.
    pub(crate) files: Vec<File>,
    /// Constants, as WGSL writes their values.
    pub(crate) constants: Vec<(&'static str, u32)>,
    /// How many inputs it has.
    pub(crate) inputs: u32,
}

impl Kernel {
    /// With weight dropout, or with nothing of it: for kernels that have it in their files.
    pub(crate) fn with_dropout(mut self, dropout: bool) -> Self {
        self.constants.push(("DROPOUT", u32::from(dropout)));
        self
    }

    /// Both.
    #[cfg(test)]
    pub(crate) fn both_dropouts(self) -> [Self; 2] {
        [self.clone().with_dropout(false), self.with_dropout(true)]
    }

    /// The text.
    pub(crate) fn source(&self) -> String {
        let sizes = [("WORKGROUP", self.workgroup), ("STEPS", STEPS), ("DEPTH", DEPTH), ("MEMORY", MEMORY)];
        let sizes = sizes.map(|(name, value)| (name, value as u32));
        let mut source = String::new();
        for (name, value) in sizes.iter().chain(&self.constants) {
            writeln!(source, "const {name} = {value}u;").expect("a String takes all that is written");
        }
        for file in &self.files {
            source.push('\n');
            source.push_str(file.text());
        }
        source
    }
}

/// A type, as the kernels name it.
pub(crate) fn code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
    }
}

/// How many channels an invocation of a convolution works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// One.
    One,
    /// The two of a word, of one head.
    Two,
    /// The two of a word, of two heads.
    TwoHeads,
}

impl Lane {
    /// For tokens of type `dtype` whose rows begin on whole words, or do not.
    pub(crate) fn new(dtype: DType, whole_words: bool, head_channels: usize) -> Self {
        match dtype {
            DType::F16 | DType::BF16 if whole_words && head_channels.is_multiple_of(2) => Lane::Two,
            DType::F16 | DType::BF16 if whole_words => Lane::TwoHeads,
            _ => Lane::One,
        }
    }

    #[cfg(test)]
    pub(crate) const ALL: [Lane; 3] = [Lane::One, Lane::Two, Lane::TwoHeads];

    pub(crate) fn channels(self) -> usize {
        match self {
            Lane::One => 1,
            Lane::Two | Lane::TwoHeads => 2,
        }
    }

    pub(crate) fn file(self) -> File {
        match self {
            Lane::One => File::LaneOne,
            Lane::Two | Lane::TwoHeads => File::LaneTwo,
        }
    }

    /// How its outputs of type `dtype` are stored.
    pub(crate) fn store(self, dtype: DType) -> File {
        store(dtype, self != Lane::One)
    }

    pub(crate) fn split(self) -> u32 {
        u32::from(self == Lane::TwoHeads)
    }
}

/// How outputs of type `dtype` are stored that fill whole words, or do not.
pub(crate) fn store(dtype: DType, whole_words: bool) -> File {
    if dtype == DType::F32 || whole_words { File::StoreWords } else { File::StoreHalves }
}

/// Each type of tokens with each type that its parameters may have.
#[cfg(test)]
pub(crate) fn types() -> Vec<(DType, DType)> {
    use DType::{BF16, F16, F32};
    vec![(F32, F32), (F16, F16), (F16, F32), (BF16, BF16), (BF16, F32)]
}
