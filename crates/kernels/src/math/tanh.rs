//! Hyperbolic tangent.

use super::{exp, polynomial, slice_form};

/// tanh x within 1.5 ulp.
///
/// Below 0.625 the odd polynomial of Moshier's Cephes library (`tanhf.c`), above it 1 - 2 / (e^2|x| + 1).
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    const P: [f32; 5] = [-0.333_332_8, 0.133_314_42, -0.053_739_715, 0.020_639_088, -0.005_704_988_7];
    let magnitude = x.abs();
    let square = x * x;
    let near = magnitude + magnitude * square * polynomial(square, P);
    let far = 1.0 - 2.0 / (exp(2.0 * magnitude) + 1.0);
    (if magnitude < 0.625 { near } else { far }).copysign(x)
}

slice_form! {
    /// y = tanh x; see [`tanh`].
    tanh_into, tanh
}
