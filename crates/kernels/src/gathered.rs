//! Gradients of variables past Candle's graph.

use crate::buffers::add_all;
use crate::embedding::OfRows;
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor};
use std::cell::RefCell;

thread_local! {
    /// Variables and their gradients, while [`backward`] runs on this thread.
    static GATHERED: RefCell<Option<Vec<(Tensor, Gradient)>>> = const { RefCell::new(None) };
}

/// What a variable gets from one operation.
pub(crate) enum Gradient {
    /// Its gradient, row-major.
    Dense(Vec<f32>),
    /// That of a table, of which it is zero but for the rows that were looked up.
    Rows(OfRows),
}

/// The gradients of a scalar, as [`Tensor::backward`] gives them, with fewer passes over memory.
///
/// Candle makes zeros for every gradient and adds to them, in threads of its own that go on spinning for a while on cores
/// where others are about to work. Variables are spared that here in fused blocks and as tables of embeddings.
///
/// # Errors
/// When the backward pass fails.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    /// Puts back what was gathered before, whatever happens.
    struct Before(Option<Vec<(Tensor, Gradient)>>);

    impl Drop for Before {
        fn drop(&mut self) {
            GATHERED.set(self.0.take());
        }
    }

    let before = Before(GATHERED.replace(Some(vec![])));
    let mut gradients = loss.backward()?;
    let gathered = GATHERED.take().unwrap_or_default();
    drop(before);
    let mut sums: Vec<(Tensor, Gradient)> = vec![];
    for (variable, gradient) in gathered {
        let gradient = match sums.iter().position(|(other, _)| other.id() == variable.id()) {
            Some(earlier) => sums.swap_remove(earlier).1.plus(gradient, &variable)?,
            None => gradient,
        };
        sums.push((variable, gradient));
    }
    for (variable, gradient) in sums {
        let gradient = gradient.into_tensor(&variable)?;
        let sum = match gradients.remove(&variable) {
            Some(earlier) => (earlier + gradient)?,
            None => gradient,
        };
        gradients.insert(&variable, sum);
    }
    Ok(gradients)
}

/// Leaves a variable's gradient to a running [`backward`], or gives it back for Candle's graph.
pub(crate) fn gather(variable: &Tensor, gradient: Gradient) -> Result<Option<Tensor>> {
    let left = GATHERED.with_borrow_mut(|gathered| match gathered {
        Some(gathered) if variable.is_variable() => {
            gathered.push((variable.clone(), gradient));
            None
        }
        Some(_) | None => Some(gradient),
    });
    left.map(|gradient| gradient.into_tensor(variable)).transpose()
}

impl Gradient {
    fn into_dense(self, variable: &Tensor) -> Result<Vec<f32>> {
        match self {
            Self::Dense(gradient) => Ok(gradient),
            Self::Rows(rows) => rows.dense(variable.dims2()?),
        }
    }

    fn into_tensor(self, variable: &Tensor) -> Result<Tensor> {
        Tensor::from_vec(self.into_dense(variable)?, variable.shape(), variable.device())
    }

    /// The sum with another of the same variable.
    fn plus(self, other: Self, variable: &Tensor) -> Result<Self> {
        // Rows are added to what is whole.
        let (mut sum, other) = match (self, other) {
            (rows @ Self::Rows(_), Self::Dense(whole)) => (whole, rows),
            (sum, other) => (sum.into_dense(variable)?, other),
        };
        match other {
            Self::Dense(other) => add_all(&mut sum, &other),
            Self::Rows(rows) => rows.add_to(&mut sum, variable.dims2()?)?,
        }
        Ok(Self::Dense(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Kernels, embedding};
    use candle_core::Var;

    /// A table that is looked up, once or twice, and used as a matrix, in any order, or only looked up, has Candle's gradient,
    /// bit for bit.
    #[test]
    fn tables_have_the_gradients_of_candle() -> Result<()> {
        let table = Var::from_tensor(&random(1, (300, 70))?)?;
        let (ids, others) = (random_ids(2, 500, 290)?, random_ids(3, 20, 300)?);
        let rows = |ids: &Tensor| embedding(Kernels::Portable, &table, ids)?.sqr()?.sum_all();
        let product = || table.matmul(&random(4, (70, 5))?)?.sqr()?.sum_all();
        let losses: [&dyn Fn() -> Result<Tensor>; 4] =
            [&|| rows(&ids), &|| rows(&ids)? + product()?, &|| product()? + rows(&ids)?, &|| {
                rows(&ids)? + rows(&others)?
            }];
        for (index, loss) in losses.iter().enumerate() {
            let [gathered, plain] = [backward(&loss()?)?, loss()?.backward()?]
                .map(|store| store.get(&table).expect("a gradient").clone());
            assert_eq!(bits(&gathered)?, bits(&plain)?, "loss {index}");
        }
        Ok(())
    }

    #[test]
    fn gradients_add_up_in_any_form() -> Result<()> {
        let (v, d) = (40, 3);
        let table = Var::from_tensor(&random(1, (v, d))?)?;
        let rows = |seed| -> Result<Gradient> {
            Ok(Gradient::Rows(OfRows::new(random(seed, (30, d))?, random_ids(seed, 30, v)?)))
        };
        let dense = |seed| -> Result<Gradient> { Ok(Gradient::Dense(random(seed, v * d)?.to_vec1()?)) };
        let kinds: [&dyn Fn(u64) -> Result<Gradient>; 2] = [&rows, &dense];
        for (one, other) in kinds.iter().flat_map(|one| kinds.map(|other| (one, other))) {
            let sum = one(5)?.plus(other(6)?, &table)?;
            let (a, b) = (one(5)?.into_dense(&table)?, other(6)?.into_dense(&table)?);
            let expected: Vec<_> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            assert_eq!(sum.into_dense(&table)?, expected);
        }
        Ok(())
    }
}
