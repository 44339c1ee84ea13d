//! The weight products inside a block.

use crate::Kernels;
use crate::buffers::add_all;
use crate::matmul::{Mat, products, sum_of_products};
use crate::profile::{Part, Work, matmul_span, span};
use crate::quantized::{
    self, BackwardPass, Computation, Matrix, QuantizedLinear, RowGradients, RowKept, RowMaps,
};
use crate::row_operands::products_over_rows;
use crate::row_tasks::RowUnit;
use candle_core::{Result, Tensor};
use std::slice;

/// A weight \[d_out, d_in\] and how it is multiplied: in f32, or as a recipe says.
#[derive(Clone, Debug)]
pub struct Projection {
    /// Weight \[d_out, d_in\].
    pub weight: Tensor,
    /// Formats of its products; `None` for f32.
    pub low: Option<QuantizedLinear>,
}

/// What a product keeps for its backward pass: nothing in f32.
pub(super) type State = Option<Kept>;

/// What a product below f32 keeps.
pub(super) enum Kept {
    /// Its operands, as they were quantised whole.
    Whole(quantized::Kept),
    /// What tasks made of them by rows.
    ByRows(RowKept),
}

impl Projection {
    fn matrix<'a>(&self, w: &'a [f32]) -> Result<Matrix<'a>> {
        let (rows, cols) = self.weight.dims2()?;
        Ok(Matrix { values: w, rows, cols })
    }

    /// y = x wᵀ of several projections of one row-major x. States are for a backward pass, if they are to be kept.
    pub(super) fn forward_each(
        all: &[&Self],
        x: &[f32],
        ws: &[&[f32]],
        keep: bool,
    ) -> Result<Vec<(Vec<f32>, State)>> {
        let ws = Self::matrices(all, ws)?;
        let x = Matrix { values: x, rows: x.len() / ws[0].cols, cols: ws[0].cols };
        let Some(computation) = Self::low(all)? else {
            let pairs = ws.iter().map(|w| (mat(x), mat(*w).t()));
            let shape = [x.rows, x.cols, rows(&ws)];
            let ys = matmul_span(Part::MatmulForward, shape, || products(pairs));
            return Ok(ys.into_iter().map(|y| (y, None)).collect());
        };
        Self::forward_low(&computation, x, &ws, None, keep)
    }

    /// The same below f32; `residual` is added to each.
    fn forward_low(
        computation: &Computation<'_>,
        x: Matrix<'_>,
        ws: &[Matrix<'_>],
        residual: Option<&[f32]>,
        keep: bool,
    ) -> Result<Vec<(Vec<f32>, State)>> {
        if let Some(rows) = RowMaps::new(computation, x.rows, ws) {
            let (ys, kept) = rows.forward(x, ws, residual, keep)?;
            return Ok(ys.into_iter().zip(kept.into_iter().map(|kept| Some(Kept::ByRows(kept)))).collect());
        }
        let (mut ys, kept) = computation.forward(x, ws)?;
        if let Some(residual) = residual {
            ys.iter_mut().for_each(|y| add(y, residual));
        }
        Ok(ys.into_iter().zip(kept.into_iter().map(|kept| Some(Kept::Whole(kept)))).collect())
    }

    /// How projections of one x are computed, if it is not in f32.
    pub(super) fn low<'a>(all: &[&'a Self]) -> Result<Option<Computation<'a>>> {
        let maps: Vec<_> = all.iter().filter_map(|projection| projection.low.as_ref()).collect();
        match maps.len() {
            0 => Ok(None),
            count if count == all.len() => Ok(Some(Computation { kernels: Kernels::Portable, maps })),
            _ => candle_core::bail!("projections of one input are either all in f32 or all below"),
        }
    }

    /// `residual` + x wᵀ, as [`Projection::forward_each`].
    pub(super) fn forward_onto(
        &self,
        residual: &[f32],
        x: &[f32],
        w: &[f32],
        keep: bool,
    ) -> Result<(Vec<f32>, State)> {
        let w = self.matrix(w)?;
        let x = Matrix { values: x, rows: x.len() / w.cols, cols: w.cols };
        if let Some(computation) = Self::low(&[self])? {
            let mut all = Self::forward_low(&computation, x, &[w], Some(residual), keep)?;
            return all.pop().ok_or_else(missing);
        }
        let (shape, pairs) = ([x.rows, x.cols, w.rows], vec![(mat(x), mat(w).t())]);
        Ok((matmul_span(Part::MatmulForward, shape, || sum_of_products(Some(residual), pairs)), None))
    }

    /// The weights of projections, of which there is one at least, as matrices of as many columns.
    pub(super) fn matrices<'a>(all: &[&Self], ws: &[&'a [f32]]) -> Result<Vec<Matrix<'a>>> {
        let ws =
            all.iter().zip(ws).map(|(projection, w)| projection.matrix(w)).collect::<Result<Vec<_>>>()?;
        match ws.iter().all(|w| w.cols == ws[0].cols) && !ws.is_empty() {
            true => Ok(ws),
            false => candle_core::bail!("projections of one input differ in its width"),
        }
    }
}

/// Projections of one x in the backward pass.
pub(super) struct Backward<'a> {
    ws: Vec<Matrix<'a>>,
    dys: Vec<Matrix<'a>>,
    way: Way<'a>,
}

/// How gradients are computed.
enum Way<'a> {
    /// In f32.
    Full,
    /// Below f32, from operands that are quantised whole.
    Whole(BackwardPass<'a>),
    /// By tasks that quantise rows, which have found the gradient of x too.
    ByRows { dx: Option<Vec<f32>>, gradients: RowGradients<'static>, unit: RowUnit },
}

impl<'a> Backward<'a> {
    /// From the gradients of their results.
    pub(super) fn new(
        all: &[&'a Projection],
        states: &[&'a State],
        ws: &[&'a [f32]],
        dys: &[&'a [f32]],
    ) -> Result<Self> {
        let ws = Projection::matrices(all, ws)?;
        let of_dy =
            |(dy, w): (&&'a [f32], &Matrix<'_>)| Matrix { values: dy, rows: dy.len() / w.rows, cols: w.rows };
        let dys: Vec<_> = dys.iter().zip(&ws).map(of_dy).collect();
        let way = match Projection::low(all)? {
            Some(computation) => Way::low(computation, states, &ws, &dys)?,
            None => Way::Full,
        };
        Ok(Self { ws, dys, way })
    }

    /// Whether [`weight_gradients`] reads x: products below f32 may have kept what they need of it.
    pub(super) fn reads_input(&self) -> bool {
        match &self.way {
            Way::Full => true,
            Way::Whole(pass) => pass.reads_input(),
            Way::ByRows { .. } => false,
        }
    }

    /// The gradient of x, the sum of those by each projection; once.
    pub(super) fn input_gradient(&mut self) -> Result<Vec<f32>> {
        match &mut self.way {
            Way::Full => {
                let pairs = self.dys.iter().zip(&self.ws).map(|(dy, w)| (mat(*dy), mat(*w))).collect();
                let shape = [self.dys[0].rows, rows(&self.ws), self.ws[0].cols];
                Ok(matmul_span(Part::MatmulInput, shape, || sum_of_products(None, pairs)))
            }
            Way::Whole(pass) => {
                let mut dxs = pass.input_gradients()?.into_iter();
                let mut dx = dxs.next().ok_or_else(missing)?;
                dxs.for_each(|more| add(&mut dx, &more));
                Ok(dx)
            }
            Way::ByRows { dx, .. } => dx.take().ok_or_else(missing),
        }
    }

    /// x as a matrix, which may be empty where it is not read.
    fn input<'x>(&self, x: &'x [f32]) -> Matrix<'x> {
        Matrix { values: x, rows: self.dys[0].rows, cols: self.ws[0].cols }
    }
}

impl<'a> Way<'a> {
    /// Below f32, as the forward pass went.
    fn low(
        computation: Computation<'a>,
        states: &[&'a State],
        ws: &[Matrix<'a>],
        dys: &[Matrix<'a>],
    ) -> Result<Self> {
        let (mut whole, mut by_rows) = (vec![], vec![]);
        for state in states {
            match state {
                Some(Kept::Whole(kept)) => whole.push(kept),
                Some(Kept::ByRows(kept)) => by_rows.push(kept),
                None => return Err(missing()),
            }
        }
        if by_rows.is_empty() {
            return Ok(Self::Whole(BackwardPass::new(computation, whole, ws.to_vec(), dys.to_vec())?));
        }
        let rows = RowMaps::new(&computation, dys[0].rows, ws).ok_or_else(missing)?;
        let (dx, gradients) = rows.backward(&by_rows, ws, dys)?;
        Ok(Self::ByRows { dx: Some(dx), gradients, unit: rows.unit() })
    }
}

/// The gradients of the weights of projections of one x after those of another, each with its x, which may be empty where it
/// is not read.
pub(super) fn weight_gradients(all: &[(&Backward<'_>, &[f32])]) -> Result<Vec<Vec<f32>>> {
    let (mut pairs, mut passes, mut by_rows) = (vec![], vec![], vec![]);
    for (backward, x) in all {
        let x = backward.input(x);
        match &backward.way {
            Way::Full => pairs.extend(backward.dys.iter().map(|dy| (mat(*dy).t(), mat(x)))),
            Way::Whole(pass) => passes.push((pass, x)),
            Way::ByRows { gradients, unit, .. } => by_rows.push((gradients, *unit)),
        }
    }
    // As many multiplications as one product of this shape.
    let [n, d] = all.first().map_or([0, 0], |(of, _)| [of.dys[0].rows, of.ws[0].cols]);
    let results: usize = all.iter().flat_map(|(of, _)| &of.ws).map(|w| w.rows * w.cols).sum();
    let shape = [results / d.max(1), n, d];
    match (&pairs[..], &passes[..], &by_rows[..]) {
        (_, [], []) => Ok(matmul_span(Part::MatmulWeight, shape, || products(pairs))),
        ([], _, []) => quantized::weight_gradients(&passes),
        ([], [], [(_, unit), ..]) => Ok(matmul_span(Part::MatmulWeight, shape, || {
            let pairs: Vec<_> = by_rows.iter().flat_map(|(gradients, _)| gradients.pairs()).collect();
            products_over_rows(*unit, &pairs)
        })),
        _ => {
            let alone = all.iter().map(|one| weight_gradients(slice::from_ref(one)));
            Ok(alone.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        }
    }
}

/// Rows of all matrices.
fn rows(all: &[Matrix<'_>]) -> usize {
    all.iter().map(|matrix| matrix.rows).sum()
}

fn missing() -> candle_core::Error {
    candle_core::Error::Msg("internal error: a product left out a result that was asked for".into())
}

fn mat(matrix: Matrix<'_>) -> Mat<'_> {
    Mat::row_major(matrix.values, matrix.rows, matrix.cols)
}

/// sum ← sum + x.
pub(super) fn add(sum: &mut [f32], x: &[f32]) {
    span(Part::Residual, Work::floats(3 * x.len()), || add_all(sum, x));
}
