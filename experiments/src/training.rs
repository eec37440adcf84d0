//! Training that can stop anywhere and go on to the same bits: parameters and their optimiser, checkpoints, and the loop.

mod adam;
mod checkpoint;
mod plan;
mod record;
mod variables;

pub use adam::Adam;
pub use plan::Plan;
pub use record::{Curve, Point, Record, Stopped};
pub use variables::Variables;
