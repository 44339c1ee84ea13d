//! From run directories to a comparison: collect runs, group them into arms, compare arms with statistics, print.
//!
//! Every step is a plain value, so that a table, a JSON file and a test see the same numbers: [`collect()`] reads a
//! [`Collection`], [`Comparison::new`] turns it into arms with estimates and paired differences, [`export()`] prints it.

pub mod collect;
pub mod comparison;
pub mod export;

mod arms;
mod baseline;
mod grid;
mod keys;
mod matrix;
mod notes;
mod precision;
#[cfg(test)]
pub(crate) mod testing;

pub use collect::{Collection, Problem, ProblemKind, Run, collect};
pub use comparison::{Arm, Comparison, Options, Order, RunRow, Standing};
pub use export::{Format, export};
pub use notes::{Level, Note};
