//! The claims of the papers behind lightspan, tested again in small: one program for each, in minutes on two cores.
//!
//! What was found is in `docs/papers.md`.

pub mod categories;
pub mod cross_sequence;
pub mod data;
pub mod frozen_transfer;
pub mod model;
pub mod options;
pub mod picture;
pub mod pretrain;
pub mod pretraining;
pub mod random;
pub mod replaced_token;
pub mod report;
pub mod table;
pub mod training;
