//! Number formats, rounding and scaled quantisation, bit for bit, in plain Rust.
//!
//! The crate answers what a tensor becomes in a low-precision format: [`quantize`] gives the [`Operand`] that
//! a matrix product multiplies, [`round_slice`] rounds tensors between operations, and [`health`] says what
//! was lost. Everything exists twice: [`mod@reference`] goes through codes, one element after another, and is
//! the oracle; the rest is vectorised and parallel and gives the same bits, on any processor and any
//! number of threads.
//!
//! ```
//! use numerics::{Contraction, NumericFormat, Overflow, QuantSpec, RoundingMode, ScaleKind, Scaling, health, quantize};
//!
//! let spec = QuantSpec {
//!     format: NumericFormat::E4m3,
//!     scaling: Scaling::Row,
//!     scale: ScaleKind::Float,
//!     rounding: RoundingMode::NearestEven,
//!     overflow: Overflow::Saturate,
//! };
//! let x = [0.1, -0.2, 0.3, 4.0, 5.0, -6.0]; // two rows, each with a scale of its own
//! let operand = quantize(&x, 2, 3, Contraction::Columns, &spec, 0, None)?;
//! let back = operand.dequantize(2, 3, Contraction::Columns);
//! assert!(x.iter().zip(&back).all(|(x, y)| (x - y).abs() <= x.abs() / 16.0));
//! assert!(health(&x, 2, 3, Contraction::Columns, &spec, &operand).sqnr_db() > 24.0);
//! # Ok::<(), numerics::QuantError>(())
//! ```
//!
//! # Where the emulation idealises hardware
//!
//! - Products of quantised operands are meant to be summed in `f32`, exactly as written. Tensor cores sum in
//!   formats of their own: on Hopper FP8 products are aligned and truncated to about 14 bits before they are
//!   added (DeepSeek-V3 report, section 3.3.2), which costs accuracy that is not seen here.
//! - Elements are divided by their scale with one correctly rounded division. Hardware recipes usually
//!   multiply by a rounded reciprocal, which now and then moves an element that lies next to a midpoint.
//! - Block scales along the contraction are applied to exact partial sums; the scaled-MMA instructions of
//!   Blackwell apply them inside their own accumulation, whose order and width are not published.
//! - NVFP4's E4M3 block scale is rounded to nearest; a block's largest elements may then exceed 6 at their
//!   scale by up to 1/16, and saturate.
//! - Stochastic rounding has 24 random bits; Blackwell's conversion instructions use far fewer.
//! - NaN is never hidden: it stays NaN in the values even where the format has no code for it, since an
//!   experiment wants to see it. (Hardware conversions to FP6, FP4 and integers give some finite number.)
//!
//! Modules are declared in reading order.

pub mod simd;

mod format;
mod rounding;

mod encode;
mod scaling;

mod averages;
mod check;
mod delayed;
mod scale;

mod operand;

pub mod reference;

mod grid;
mod sweep;

mod mx;

mod bands;

mod quantize;

mod rows;

mod health;

mod error;

pub use bands::Extent;
pub use check::QuantError;
pub use delayed::DelayedScale;
pub use encode::Encoded;
pub use error::UnknownName;
pub use format::{FormatSpec, Layout, NumericFormat, Specials};
pub use health::{Health, health};
pub use operand::{Operand, OuterScale};
pub use quantize::{count_non_finite, extent, quantize, round_rows, round_slice};
pub use reference::{EncodedMatrix, StoredScales, encode_matrix};
pub use rounding::{Overflow, Rounding, RoundingMode};
pub use rows::RowQuantizer;
pub use scaling::{Contraction, QuantSpec, ScaleKind, Scaling};
