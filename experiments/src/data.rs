//! What is learned from: data that is in the repository, and tasks that are drawn.

pub mod digits;
pub mod replaced_tokens;
pub mod span_corruption;
pub mod text;
