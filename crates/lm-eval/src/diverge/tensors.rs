//! How far apart two sets of named tensors are: which of them pair up, their angles and distances.

use std::iter::Sum;
use std::ops::Add;

use serde::Serialize;

/// Values of a named tensor, flattened.
#[derive(Clone, Debug, PartialEq)]
pub struct Flat {
    /// Name.
    pub name: String,
    /// Shape.
    pub dims: Vec<usize>,
    /// Elements, row by row.
    pub values: Vec<f64>,
}

/// Inner products of two vectors a and b: all that angles and distances take. Products of parts add up to
/// those of the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Products {
    /// a . b
    pub ab: f64,
    /// a . a
    pub aa: f64,
    /// b . b
    pub bb: f64,
    /// (a - b) . (a - b), summed as such: from the other three it would lose its digits for close vectors.
    pub dd: f64,
}

impl Products {
    /// Products of two vectors of equal length.
    pub fn of(a: &[f64], b: &[f64]) -> Self {
        debug_assert_eq!(a.len(), b.len());
        let one = |(&a, &b): (&f64, &f64)| Self { ab: a * b, aa: a * a, bb: b * b, dd: (a - b) * (a - b) };
        a.iter().zip(b).map(one).sum()
    }

    /// Cosine of the angle between them, in -1..=1; `None` when one is zero.
    pub fn cosine(&self) -> Option<f64> {
        let norms = (self.aa * self.bb).sqrt();
        (norms != 0.0).then(|| (self.ab / norms).clamp(-1.0, 1.0))
    }

    /// ||a - b|| / ||a||; `None` when a is zero.
    pub fn relative_distance(&self) -> Option<f64> {
        (self.aa != 0.0).then(|| (self.dd / self.aa).sqrt())
    }
}

impl Add for Products {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            ab: self.ab + other.ab,
            aa: self.aa + other.aa,
            bb: self.bb + other.bb,
            dd: self.dd + other.dd,
        }
    }
}

impl Sum for Products {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

/// Which tensors of two models pair up: those of one name and shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pairing {
    /// Number of tensors that both have.
    pub shared: usize,
    /// Tensors that only A has.
    pub only_a: Vec<String>,
    /// Tensors that only B has.
    pub only_b: Vec<String>,
    /// Tensors that both have, in different shapes; they are left out.
    pub other_shape: Vec<String>,
}

impl Pairing {
    /// Whether every tensor of either has its twin.
    pub fn is_complete(&self) -> bool {
        self.only_a.is_empty() && self.only_b.is_empty() && self.other_shape.is_empty()
    }
}

/// Pairs up two sets, in the order of `a`.
pub fn pair_up<'a>(a: &'a [Flat], b: &'a [Flat]) -> (Vec<(&'a Flat, &'a Flat)>, Pairing) {
    let (mut pairs, mut pairing) = (Vec::new(), Pairing::default());
    for left in a {
        match b.iter().find(|right| right.name == left.name) {
            Some(right) if right.dims == left.dims => pairs.push((left, right)),
            Some(_) => pairing.other_shape.push(left.name.clone()),
            None => pairing.only_a.push(left.name.clone()),
        }
    }
    let missing = b.iter().filter(|right| a.iter().all(|left| left.name != right.name));
    pairing.only_b = missing.map(|right| right.name.clone()).collect();
    pairing.shared = pairs.len();
    (pairs, pairing)
}

/// Length of all tensors of a set as one vector.
pub fn norm(tensors: &[Flat]) -> f64 {
    tensors.iter().flat_map(|tensor| &tensor.values).map(|x| x * x).sum::<f64>().sqrt()
}

/// One tensor of both gradients.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorAngle {
    /// Name.
    pub name: String,
    /// Cosine between the two gradients; `None` when one is zero.
    pub cosine: Option<f64>,
    /// Norm of A's gradient.
    pub norm_a: f64,
    /// Norm of B's gradient.
    pub norm_b: f64,
}

/// Gradients of both models on one batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradientGap {
    /// Number of the batch in the order of the data, from 0.
    pub batch: u64,
    /// Cosine over all tensors that both have, as one vector.
    pub cosine: Option<f64>,
    /// Norm of A's whole gradient, unclipped.
    pub norm_a: f64,
    /// Norm of B's whole gradient, unclipped.
    pub norm_b: f64,
    /// Every tensor that both have, lowest cosine first.
    pub tensors: Vec<TensorAngle>,
}

impl GradientGap {
    /// Compares two gradients of the batch number `batch`.
    pub fn of(batch: u64, a: &[Flat], b: &[Flat]) -> Self {
        let products = products(a, b);
        let angle = |(name, p): &(&str, Products)| TensorAngle {
            name: (*name).to_owned(),
            cosine: p.cosine(),
            norm_a: p.aa.sqrt(),
            norm_b: p.bb.sqrt(),
        };
        let mut tensors: Vec<TensorAngle> = products.iter().map(angle).collect();
        // Above 1 lies what has no cosine.
        tensors.sort_by(|x, y| x.cosine.unwrap_or(2.0).total_cmp(&y.cosine.unwrap_or(2.0)));
        let cosine = products.iter().map(|(_, p)| *p).sum::<Products>().cosine();
        Self { batch, cosine, norm_a: norm(a), norm_b: norm(b), tensors }
    }
}

/// One tensor of both models.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorDistance {
    /// Name.
    pub name: String,
    /// ||a - b|| / ||a||; `None` when a is zero.
    pub distance: Option<f64>,
    /// Cosine between the two; `None` when one is zero.
    pub cosine: Option<f64>,
}

/// Weights of both models.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightGap {
    /// ||a - b|| / ||a|| over all tensors that both have, as one vector.
    pub distance: Option<f64>,
    /// Cosine over all tensors that both have.
    pub cosine: Option<f64>,
    /// Every tensor that both have, largest distance first.
    pub tensors: Vec<TensorDistance>,
}

impl WeightGap {
    /// Compares two sets of weights.
    pub fn of(a: &[Flat], b: &[Flat]) -> Self {
        let products = products(a, b);
        let distance = |(name, p): &(&str, Products)| TensorDistance {
            name: (*name).to_owned(),
            distance: p.relative_distance(),
            cosine: p.cosine(),
        };
        let mut tensors: Vec<TensorDistance> = products.iter().map(distance).collect();
        tensors.sort_by(|x, y| y.distance.unwrap_or(-1.0).total_cmp(&x.distance.unwrap_or(-1.0)));
        let total: Products = products.iter().map(|(_, p)| *p).sum();
        Self { distance: total.relative_distance(), cosine: total.cosine(), tensors }
    }
}

/// Products of every tensor that both have.
fn products<'a>(a: &'a [Flat], b: &'a [Flat]) -> Vec<(&'a str, Products)> {
    let pairs = pair_up(a, b).0;
    pairs.into_iter().map(|(a, b)| (a.name.as_str(), Products::of(&a.values, &b.values))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flat(name: &str, values: &[f64]) -> Flat {
        Flat { name: name.to_owned(), dims: vec![values.len()], values: values.to_vec() }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn products_by_hand() {
        let p = Products::of(&[3.0, 4.0], &[4.0, 3.0]);
        assert_eq!(p, Products { ab: 24.0, aa: 25.0, bb: 25.0, dd: 2.0 });
        assert_eq!(p.cosine(), Some(24.0 / 25.0));
        assert_eq!(p.relative_distance(), Some((2.0f64 / 25.0).sqrt()));
        assert_eq!(p + Products::of(&[1.0], &[0.0]), Products { ab: 24.0, aa: 26.0, bb: 25.0, dd: 3.0 });
        let zero = Products::of(&[0.0], &[1.0]);
        assert_eq!((zero.cosine(), zero.relative_distance()), (None, None));
        assert!(Products::of(&[f64::NAN], &[1.0]).cosine().is_some_and(f64::is_nan));
    }

    #[test]
    fn tensors_pair_up_by_name_and_shape() {
        let a = [flat("both", &[1.0]), flat("wide", &[1.0, 2.0]), flat("left", &[1.0])];
        let b = [flat("right", &[1.0]), flat("wide", &[1.0]), flat("both", &[2.0])];
        let (pairs, pairing) = pair_up(&a, &b);
        assert_eq!(pairs, [(&a[0], &b[2])]);
        let expected = Pairing {
            shared: 1,
            only_a: names(&["left"]),
            only_b: names(&["right"]),
            other_shape: names(&["wide"]),
        };
        assert!(!pairing.is_complete());
        assert_eq!(pairing, expected);
        assert!(pair_up(&a, &a).1.is_complete());
    }

    #[test]
    fn gradients_are_listed_from_the_lowest_cosine() {
        let a =
            [flat("same", &[1.0, 0.0]), flat("zero", &[0.0]), flat("turned", &[0.0, 2.0]), flat("a", &[2.0])];
        let b = [flat("same", &[3.0, 0.0]), flat("zero", &[1.0]), flat("turned", &[0.0, -1.0])];
        let gap = GradientGap::of(7, &a, &b);
        let listed: Vec<_> = gap.tensors.iter().map(|t| (t.name.as_str(), t.cosine)).collect();
        assert_eq!(listed, [("turned", Some(-1.0)), ("same", Some(1.0)), ("zero", None)]);
        // Shared: (1, 0, 0, 0, 2) . (3, 0, 1, 0, -1) = 1, with squared norms 5 and 11. All of a: 9.
        assert_eq!(gap.cosine, Some(1.0 / 55f64.sqrt()));
        assert_eq!((gap.norm_a, gap.norm_b), (3.0, 11f64.sqrt()));
    }

    #[test]
    fn weights_are_listed_from_the_largest_distance() {
        let a = [flat("still", &[1.0, 1.0]), flat("moved", &[0.0, 2.0])];
        let b = [flat("still", &[1.0, 1.0]), flat("moved", &[0.0, 3.0])];
        let gap = WeightGap::of(&a, &b);
        let listed: Vec<_> = gap.tensors.iter().map(|t| (t.name.as_str(), t.distance)).collect();
        assert_eq!(listed, [("moved", Some(0.5)), ("still", Some(0.0))]);
        assert_eq!(gap.distance, Some((1.0f64 / 6.0).sqrt()));
        assert_eq!(gap.cosine, Some(8.0 / (6.0f64 * 11.0).sqrt()));
    }

    proptest! {
        #[test]
        fn cosines_and_distances_lie_where_they_must(
            pairs in prop::collection::vec((-1e3..1e3f64, -1e3..1e3f64), 1..50), scale in 1e-3..1e3f64,
        ) {
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let p = Products::of(&a, &b);
            prop_assert!(p.cosine().is_none_or(|cosine| (-1.0..=1.0).contains(&cosine)));
            prop_assert!(p.relative_distance().is_none_or(|distance| distance >= 0.0));
            prop_assume!(p.aa > 0.0);
            let same = Products::of(&a, &a);
            prop_assert_eq!((same.cosine(), same.relative_distance()), (Some(1.0), Some(0.0)));
            let scaled: Vec<f64> = a.iter().map(|x| scale * x).collect();
            prop_assert!(Products::of(&a, &scaled).cosine().is_some_and(|cosine| cosine > 1.0 - 1e-12));
        }
    }
}
