//! Error function.

use super::{exp, polynomial, slice_form};

/// erf x = 2/√π ∫₀ˣ e^-t² dt within 1.5 ulp.
///
/// x + x p(x²) up to 1, and 1 - e^-q(|x|) beyond; both polynomials are minimax fits (by iteratively
/// reweighted least squares) to erf(x)/x - 1 on \[0, 1\] and to -ln(1 - erf x) on \[1, 4\]. From 4 on the
/// result rounds to 1.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    const P: [f32; 7] = [
        0.128_379_17,
        -0.376_126_26,
        0.112_835_854,
        -0.026_853_813,
        0.005_188_328,
        -0.000_801_019_55,
        7.853_86e-5,
    ];
    const Q: [f32; 7] = [
        0.000_341_485_08,
        1.127_089_4,
        0.638_144_6,
        0.103_106_97,
        -0.021_838_164,
        0.002_947_683,
        -0.000_186_381_67,
    ];
    let magnitude = x.abs();
    let near = magnitude + magnitude * polynomial(x * x, P);
    let clamped = if magnitude > 4.0 { 4.0 } else { magnitude };
    let far = 1.0 - exp(-polynomial(clamped, Q));
    (if magnitude < 1.0 { near } else { far }).copysign(x)
}

slice_form! {
    /// y = erf x; see [`erf`].
    erf_into, erf
}
