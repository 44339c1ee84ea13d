//! A learning rate for every arm of a grid: which runs to train next, and which rate they come to.
//!
//! Everything here is a pure function of what is known so far. [`advance()`] replays the search of one arm from the
//! beginning and answers with the runs that are missing, or with the [`Choice`]; whoever trains them asks again. A search
//! that was interrupted therefore goes on by itself, and a test can play with made-up loss curves.
//!
//! **Successive halving** (Jamieson & Talwalkar 2016, arXiv 1502.07943; Li et al. 2018, arXiv 1603.06560). All rates of
//! the grid get a short run; the best of them get one `eta` times as long, and so on to the whole budget. Those that can
//! hardly be told from the last one kept are kept too.
//!
//! **A short run is a whole run of fewer steps**, not the beginning of a long one: its schedule, warm-up included, is
//! compressed. The alternative, stopping a long run early, costs less, since the run could go on; but it measures losses
//! in the middle of a decay, before the rate has come down, and so takes the noise of a high rate for a bad model. What
//! remains wrong with a compressed run is that the best rate falls with the length of a run: short runs favour rates that
//! are too high.
//!
//! **The bracket** is the remedy. On every rung, the last included, the best rate must have its lower and its higher
//! neighbour measured on the same rung. A neighbour that an earlier rung dropped comes back; one outside the grid is
//! added, which is how the grid grows. The rate chosen is thus lower in loss than both neighbours at the full budget,
//! whatever the short runs said, or the [`Choice`] says at which end of the search it lies. At least three rates per arm
//! are trained in full, so that halving saves little on a grid of five rates and more than half on one of eleven.

mod choice;
mod grid;
mod report;
mod rungs;
mod search;
mod tuning;

pub use choice::{Choice, Edge, Limit, Parabola, Side, Step};
pub use grid::RateGrid;
pub use report::report;
pub use rungs::{Rung, rungs};
pub use search::{Next, Score, Search, advance};
pub use tuning::{ArmTuning, Measured, Tuning, TuningRun};
