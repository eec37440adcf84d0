//! What can be wrong with a call.

mod shown;

pub use shown::Dims;
use shown::{Few, Or};

use crate::DType;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with a call, with every number needed to mend it.
///
/// What is wrong with a call is found before anything is allocated or launched; that memory is lacking, before anything
/// is launched.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A size that must be at least one is zero.
    #[error("{what} must be at least 1")]
    ZeroSize {
        /// The size, by its name in the documentation.
        what: &'static str,
    },

    /// The sizes of a tensor multiply to more than memory can address.
    #[error("{what} of {sizes:?} elements is larger than memory can address")]
    TooLarge {
        /// The tensor.
        what: &'static str,
        /// Its sizes.
        sizes: Vec<usize>,
    },

    /// The window starts before its own first tap can reach: left padding past (width - 1) dilation.
    #[error(
        "left padding {left} is past the window: width {width} and dilation {dilation} allow 0 to {reach}"
    )]
    WindowLeft {
        /// Left padding P.
        left: usize,
        /// Width K.
        width: usize,
        /// Dilation r.
        dilation: usize,
        /// (K - 1) r, the largest P allowed.
        reach: usize,
    },

    /// Heads must divide the convolved channels.
    #[error("{heads} heads do not divide {channels} channels")]
    Heads {
        /// Heads H.
        heads: usize,
        /// Channels C.
        channels: usize,
    },

    /// Groups must divide what they divide.
    #[error("{groups} groups do not divide {size} {what}")]
    Groups {
        /// Groups g.
        groups: usize,
        /// What is divided.
        what: &'static str,
        /// How many of it there are.
        size: usize,
    },

    /// The weight of a gated linear unit has two rows for each output.
    #[error("{tensor} of a GLU must have an even number of rows, got {rows}")]
    Halves {
        /// The tensor, by its name in the operator's documentation.
        tensor: &'static str,
        /// Rows it has.
        rows: usize,
    },

    /// A gated linear unit takes two halves of all outputs, and not of each group.
    #[error("a GLU has no groups, got {groups}")]
    GroupedGlu {
        /// Groups g.
        groups: usize,
    },

    /// A tensor has another shape than the call asks for.
    #[error("{tensor} must have shape {expected}, got {got}")]
    Shape {
        /// The tensor, by its name in the operator's documentation.
        tensor: &'static str,
        /// The shape it should have.
        expected: Dims,
        /// The shape it has.
        got: Dims,
    },

    /// A buffer is too short for what the problem reads or writes.
    #[error("{tensor} needs {expected} elements, got {got}")]
    Length {
        /// The tensor, by its name in the operator's documentation.
        tensor: &'static str,
        /// Elements needed.
        expected: usize,
        /// Elements there.
        got: usize,
    },

    /// Rows of a strided buffer overlap: the token stride is smaller than the channels.
    #[error("{tensor} has a token stride of {stride}, less than its {channels} channels")]
    Stride {
        /// The tensor, by its name in the operator's documentation.
        tensor: &'static str,
        /// Elements from one token to the next.
        stride: usize,
        /// Elements of one token.
        channels: usize,
    },

    /// A tensor holds another type than the call asks for.
    #[error("{tensor} must be {}, got {got}", Or(.expected))]
    DType {
        /// The tensor, by its name in the operator's documentation.
        tensor: &'static str,
        /// The types it may have.
        expected: Vec<DType>,
        /// The type it has.
        got: DType,
    },

    /// Tensors of one call live on different devices.
    #[error("{tensor} is on {got}, but the call is on {expected}")]
    Device {
        /// The tensor, by its name in the operator's documentation.
        tensor: &'static str,
        /// The device of the call's first tensor.
        expected: String,
        /// The device of this tensor.
        got: String,
    },

    /// An input that the problem asks for is not given.
    #[error("{tensor} is missing")]
    Missing {
        /// The tensor, by its name in the operator's documentation.
        tensor: &'static str,
    },

    /// An input is given that the problem has no place for.
    #[error("{tensor} is given, but the problem was made without it")]
    Surplus {
        /// The tensor, by its name in the operator's documentation.
        tensor: &'static str,
    },

    /// A backend that was asked for is not there.
    #[error("{backend} is not available: {reason}")]
    Unavailable {
        /// The backend.
        backend: &'static str,
        /// What is missing, and how to get it.
        reason: String,
    },

    /// A padded batch wants one length a sequence.
    #[error("{got} lengths for a batch of {batch} sequences")]
    LengthCount {
        /// Sequences in the batch.
        batch: usize,
        /// Lengths given.
        got: usize,
    },

    /// A sequence is longer than the time axis that holds it.
    #[error("sequence {sequence} has length {length}, past its {time} tokens")]
    LengthPastTime {
        /// Which sequence.
        sequence: usize,
        /// Its length.
        length: usize,
        /// Tokens a sequence has room for.
        time: usize,
    },

    /// Packed offsets start at zero: `[sequences + 1]` numbers, the first of them 0.
    #[error("packed offsets must begin with 0, got {}", .got.map_or("no offsets".to_owned(), |o| o.to_string()))]
    OffsetStart {
        /// The first offset, if there is one.
        got: Option<usize>,
    },

    /// Packed offsets never go down.
    #[error("packed offset {index} goes down, from {previous} to {got}")]
    OffsetOrder {
        /// Index of the offset.
        index: usize,
        /// The offset before it.
        previous: usize,
        /// The offset.
        got: usize,
    },

    /// Tokens gone by are counted for every sequence.
    #[error("tokens gone by are given for {got} sequences of {sequences}")]
    PastCount {
        /// Sequences there are.
        sequences: usize,
        /// Counts given.
        got: usize,
    },

    /// A cache has no room for the tokens that are to be written behind those that it holds.
    #[error("sequence {sequence} comes to {tokens} tokens, past the {room} that the cache has room for")]
    CacheRoom {
        /// Which sequence: the first of those that come furthest.
        sequence: usize,
        /// Its tokens, those gone by and those to be written.
        tokens: usize,
        /// Tokens of a sequence that there is room for.
        room: usize,
    },

    /// Only a causal window can look at history: tap K - 1 must be the token itself.
    #[error(
        "history needs a causal window: left padding {reach} for width {width} and dilation {dilation}, got {left}"
    )]
    HistoryNotCausal {
        /// Left padding P.
        left: usize,
        /// Width K.
        width: usize,
        /// Dilation r.
        dilation: usize,
        /// (K - 1) r, the P of a causal window.
        reach: usize,
    },

    /// These sequences are not those that the problem was made for.
    #[error("sequences are {got}, but the problem was made for {expected}")]
    Sequences {
        /// The problem's.
        expected: String,
        /// The call's.
        got: String,
    },

    /// Attention pairs the i-th query sequence with the i-th key sequence.
    #[error("{queries} query sequences cannot attend to {keys} key sequences")]
    SequencePairs {
        /// Query sequences.
        queries: usize,
        /// Key sequences.
        keys: usize,
    },

    /// Ids may be past the table that they are looked up in.
    #[error("{ids} go up to {}, past the {rows} rows of {table}", .bound.saturating_sub(1))]
    IdPastTable {
        /// The ids, by their name in the operator's documentation.
        ids: &'static str,
        /// A number that all of them are below.
        bound: u64,
        /// The table, by its name in the operator's documentation.
        table: &'static str,
        /// Rows it has.
        rows: usize,
    },

    /// A token stands past the table of positions.
    #[error("sequence {sequence} goes up to position {position}, past the {rows} rows of positions")]
    PositionPastTable {
        /// Which sequence.
        sequence: usize,
        /// The row that its last token asks for.
        position: usize,
        /// Rows the table has.
        rows: usize,
    },

    /// More of the largest numbers are asked for than a row has.
    #[error("the {k} largest of {vocabulary} numbers are asked for")]
    TopK {
        /// How many are asked for.
        k: usize,
        /// Numbers of a row.
        vocabulary: usize,
    },

    /// Scratch memory given by the caller is too small.
    #[error("scratch of {got} elements is too small: {expected} are needed")]
    Scratch {
        /// Elements needed.
        expected: usize,
        /// Elements given.
        got: usize,
    },

    /// There is not as much memory as a call needs.
    #[error("not enough memory for {what}: {bytes} bytes")]
    OutOfMemory {
        /// What the memory is for.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },

    /// A device allows less than a call needs.
    #[error("{needed} {what} {of} are more than the {limit} that the device allows")]
    Limit {
        /// What is counted, as in "bytes of".
        what: &'static str,
        /// What it is counted of.
        of: &'static str,
        /// How much is needed.
        needed: u64,
        /// How much the device allows.
        limit: u64,
    },

    /// An output shares its buffer with an input, which GPUs do not allow within one call.
    #[error("{output} is in the same buffer as {input}: a call cannot write a buffer that it reads")]
    SharedBuffer {
        /// The output.
        output: &'static str,
        /// The input.
        input: &'static str,
    },

    /// A buffer was made without a usage that the call needs.
    #[error("the buffer of {tensor} was made without the usage {usage}")]
    BufferUsage {
        /// The tensor, by its name in the operator's documentation.
        tensor: &'static str,
        /// The usage that is missing.
        usage: &'static str,
    },

    /// The device is gone: it was destroyed, unplugged or reset. Its tensors are lost with it.
    #[error("the device is lost: {reason}")]
    DeviceLost {
        /// What the driver says.
        reason: String,
    },

    /// The driver refused what it should have been able to do.
    #[error("the driver refused {what}: {reason}")]
    Driver {
        /// What was asked of it.
        what: &'static str,
        /// What it says.
        reason: String,
    },

    /// Weights are dropped with a probability that is at least 0 and less than 1.
    #[error("a dropout rate must be at least 0 and less than 1, got {got}")]
    DropoutRate {
        /// The rate.
        got: f32,
    },

    /// An index is past what it counts.
    #[error("{got} is no index of {count} {what}")]
    Index {
        /// What is counted.
        what: &'static str,
        /// The index.
        got: usize,
        /// How many there are.
        count: usize,
    },

    /// A search goes on from tokens: each sequence must begin with one at least.
    #[error("sequence {sequence} of the prompt has no tokens")]
    EmptyPrompt {
        /// Which sequence.
        sequence: usize,
    },

    /// A file cannot be read, or is not what it should be.
    #[error("{file}: {reason}")]
    File {
        /// Its path, or what it is called.
        file: String,
        /// What is wrong.
        reason: String,
    },

    /// A model wants a parameter that its weights do not have.
    #[error("the weights have no {name} of shape {expected}")]
    MissingWeight {
        /// The name that the model looks for.
        name: String,
        /// The shape it should have.
        expected: Dims,
    },

    /// A parameter has another shape than the model's configuration says.
    #[error("{name} must have shape {expected}, got {got}")]
    WeightShape {
        /// The parameter.
        name: String,
        /// The shape it should have.
        expected: Dims,
        /// The shape it has.
        got: Dims,
    },

    /// A parameter is stored in a type that no model takes.
    #[error("{name} must be F32, F16 or BF16, got {got}")]
    WeightType {
        /// The parameter.
        name: String,
        /// The type it has, as its file calls it.
        got: String,
    },

    /// Weights have parameters that the model has no place for: they belong to another configuration.
    #[error("the model has no place for {} of the weights: {}", .names.len(), Few(.names))]
    SurplusWeights {
        /// Their names.
        names: Vec<String>,
    },

    /// A model's configuration asks for what there is not.
    #[error("configuration {key} must be {expected}, got {got}")]
    Config {
        /// The key.
        key: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        got: String,
    },

    /// History is for decoding: the tokens that it was made from are those of another call, which no gradient reaches.
    #[error("a convolution with history has no backward pass")]
    HistoryBackward,

    /// Something in a call has no backward pass.
    #[error("there is no backward pass of {operator} with {what}")]
    NoBackward {
        /// The operator.
        operator: &'static str,
        /// What it has that no gradient goes through.
        what: &'static str,
    },

    /// A number must be positive: above zero by as much as devices tell from it, and finite.
    #[error("{what} must be positive, finite and no less than the smallest normal number, got {got}")]
    NotPositive {
        /// The number, by its name in the documentation.
        what: &'static str,
        /// Its value.
        got: f32,
    },

    /// A number must be finite.
    #[error("{what} must be finite, got {got}")]
    NotFinite {
        /// The number, by its name in the documentation.
        what: &'static str,
        /// Its value.
        got: f32,
    },
}
