//! Plots as SVG, for pages that are light or dark and for screens of any width.
//!
//! Data in, [`Svg`] out: every plot is a function of plain values that knows neither runs nor files, and only this module
//! knows the plotting crate. Colours are CSS variables ([`STYLE`] gives them for light and dark), text stays text, and sizes are
//! those of a view box about as wide as a phone, so that labels can be read there and on a desk.
//!
//! | question | plot |
//! |---|---|
//! | how do losses fall, and how do they differ | [`curves()`] over steps, over their logarithm, over measured time |
//! | how large are the differences, how sure | [`forest()`] |
//! | which variant suffers from which precision | [`heat_map`] |
//! | what do hidden units do | [`sparsity`], [`signed_histogram`]; [`histogram`] where only sizes are known |

mod canvas;
mod curves;
mod forest;
mod heat_map;
mod labels;
mod palette;
mod probes;
mod range;
mod signed;
mod svg;

pub use curves::{Curve, CurvePoint, Curves, Scale, curves};
pub use forest::{Row, forest};
pub use heat_map::{Cell, HeatMap, heat_map};
pub use palette::{SERIES, STYLE, Stroke};
pub use probes::{Bins, LayerSparsity, histogram, sparsity};
pub use signed::{Octaves, SignedOctaves, signed_histogram};
pub use svg::Svg;
