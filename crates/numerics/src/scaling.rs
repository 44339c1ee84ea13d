//! What a quantised operand is: the element format, and which elements share a scale.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::format::NumericFormat;
use crate::rounding::{Overflow, RoundingMode};

/// Elements in a block of OCP Microscaling (MX v1.0, section 5.1).
pub(crate) const MX_BLOCK: usize = 32;

/// Elements in a block of NVFP4, and the side of its square blocks for weights.
pub(crate) const NVFP4_BLOCK: usize = 16;

/// Which elements share a scale, and how the scale is found.
///
/// `amax` is the largest |x| of the finite elements that share the scale, `max` the element format's largest
/// value. In every rule with an fp32 scale, the scale is at least 2^-100, and 1 if `amax` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Scaling {
    /// No scale: the elements themselves are rounded.
    None,
    /// One scale for the tensor, from its own values: amax / max ("current scaling").
    Tensor,
    /// One scale for the tensor, from earlier tensors: the caller keeps a
    /// [`DelayedScale`](crate::DelayedScale) and gives the scale. Values that grew since then overflow.
    Delayed {
        /// How many tensors back the largest value is looked for; Transformer Engine's default is 1024.
        history: usize,
        /// The scale is multiplied by 2^margin, which leaves room for growth.
        margin: i32,
    },
    /// One scale per line: per row of a left operand, per column of a right one (see [`Contraction`]).
    Row,
    /// One scale per run of `size` elements along the contraction, amax / max. DeepSeek-V3's activations:
    /// 128.
    Block {
        /// Elements per block.
        size: usize,
    },
    /// One scale per `rows` x `cols` rectangle, amax / max. DeepSeek-V3's weights: 128 x 128.
    Block2d {
        /// Rows of a rectangle, whatever the contraction.
        rows: usize,
        /// Columns of a rectangle.
        cols: usize,
    },
    /// OCP Microscaling: runs of 32 along the contraction share an E8M0 scale, 2^(floor(log2 amax) - emax)
    /// with the exponent emax of the element format's largest value (MX v1.0, section 6.3).
    Mx,
    /// NVFP4: runs of 16 share an E4M3 scale, and the tensor an fp32 one, amax(tensor) / (6 x 448). The block
    /// scale is amax(block) / 6 / tensor scale, rounded to nearest.
    Nvfp4,
    /// NVFP4 with 16 x 16 squares in place of runs, as NVIDIA's recipe has it for weights: a matrix and its
    /// transpose then quantise to the same values.
    Nvfp4Weight,
    /// One scale for the tensor, max(mean |x|, 1e-5), for ternary weights: BitNet b1.58 (Ma et al. 2024; the
    /// clamp is that of the code published with it).
    Absmean,
    /// As [`Absmean`](Self::Absmean) with the median of |x| (the lower of the middle two): arXiv 2407.09527.
    Absmedian,
}

impl Scaling {
    /// One of each kind, with usual parameters.
    pub const EXAMPLES: [Self; 11] = [
        Self::None,
        Self::Tensor,
        Self::Delayed { history: 1024, margin: 0 },
        Self::Row,
        Self::Block { size: 128 },
        Self::Block2d { rows: 128, cols: 128 },
        Self::Mx,
        Self::Nvfp4,
        Self::Nvfp4Weight,
        Self::Absmean,
        Self::Absmedian,
    ];

    /// The name used in configuration files, without parameters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tensor => "tensor",
            Self::Delayed { .. } => "delayed",
            Self::Row => "row",
            Self::Block { .. } => "block",
            Self::Block2d { .. } => "block2d",
            Self::Mx => "mx",
            Self::Nvfp4 => "nvfp4",
            Self::Nvfp4Weight => "nvfp4_weight",
            Self::Absmean => "absmean",
            Self::Absmedian => "absmedian",
        }
    }

    /// Whether blocks have E4M3 scales under a scale of the tensor.
    pub(crate) const fn is_nvfp4(self) -> bool {
        matches!(self, Self::Nvfp4 | Self::Nvfp4Weight)
    }

    /// Whether the scales of a matrix are other ones when a product sums over its rows than when it sums over its
    /// columns.
    pub const fn follows_sum(self) -> bool {
        match self {
            Self::None | Self::Tensor | Self::Delayed { .. } | Self::Absmean | Self::Absmedian => false,
            Self::Row | Self::Block { .. } | Self::Block2d { .. } => true,
            Self::Mx | Self::Nvfp4 | Self::Nvfp4Weight => true,
        }
    }

    /// Rows and columns of the rectangles that share a scale.
    pub(crate) fn tile(self, rows: usize, cols: usize, contraction: Contraction) -> (usize, usize) {
        let run = |size| match contraction {
            Contraction::Columns => (1, size),
            Contraction::Rows => (size, 1),
        };
        match self {
            Self::None | Self::Tensor | Self::Delayed { .. } | Self::Absmean | Self::Absmedian => {
                (rows, cols)
            }
            Self::Row => run(contraction.length(rows, cols)),
            Self::Block { size } => run(size),
            Self::Block2d { rows, cols } => (rows, cols),
            Self::Mx => run(MX_BLOCK),
            Self::Nvfp4 => run(NVFP4_BLOCK),
            Self::Nvfp4Weight => (NVFP4_BLOCK, NVFP4_BLOCK),
        }
    }
}

/// Which numbers an fp32 scale may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaleKind {
    /// Any `f32`.
    #[default]
    Float,
    /// A power of two, rounded up so that amax still fits (at most 2^127). Scaling by it is exact.
    PowerOfTwo,
}

impl ScaleKind {
    /// Both, in the order of the enum.
    pub const ALL: [Self; 2] = [Self::Float, Self::PowerOfTwo];
}

/// The index of a row-major matrix `[rows, cols]` over which the product that it is an operand of sums.
///
/// Scales must not vary along a sum, unless the sum is cut where they change; so lines and blocks follow the
/// contraction. A *line* is a fixed value of the other index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Contraction {
    /// The sum runs over columns: lines are rows, and blocks are runs within a row.
    Columns,
    /// The sum runs over rows: lines are columns, and blocks run down a column.
    Rows,
}

impl Contraction {
    /// Both, in the order of the enum.
    pub const ALL: [Self; 2] = [Self::Columns, Self::Rows];

    /// The number of lines of a `[rows, cols]` matrix.
    pub const fn lines(self, rows: usize, cols: usize) -> usize {
        match self {
            Self::Columns => rows,
            Self::Rows => cols,
        }
    }

    /// The length of a line.
    pub const fn length(self, rows: usize, cols: usize) -> usize {
        match self {
            Self::Columns => cols,
            Self::Rows => rows,
        }
    }
}

/// Everything that decides how an operand is quantised, but its values and the key of its random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuantSpec {
    /// The format of the elements.
    pub format: NumericFormat,
    /// Which elements share a scale.
    pub scaling: Scaling,
    /// What kind of number an fp32 scale is.
    #[serde(default)]
    pub scale: ScaleKind,
    /// How elements are rounded. Scales have their own rules.
    pub rounding: RoundingMode,
    /// What becomes of elements that are too large at their scale.
    pub overflow: Overflow,
}
