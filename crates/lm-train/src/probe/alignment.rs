//! How parallel the gate and up weights of gated blocks are.

use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::Var;

use crate::model::ParamStore;

/// |cos(w_gate, w_up)| of every channel, by layer; empty for blocks without a gate.
///
/// # Errors
/// When a tensor cannot be read.
pub fn alignment(params: &ParamStore) -> Result<Vec<(String, Vec<f64>)>> {
    let vars: HashMap<String, Var> = params.vars().into_iter().map(|param| (param.name, param.var)).collect();
    let mut layers = Vec::new();
    for gate in params.vars() {
        let Some(layer) = gate.name.strip_suffix(".gate_proj.weight") else { continue };
        let name = format!("{layer}.up_proj.weight");
        let up = vars.get(&name).with_context(|| format!("the model has no {name}"))?;
        let (gate_rows, up_rows) = (gate.var.to_vec2::<f32>()?, up.to_vec2::<f32>()?);
        let cosines = gate_rows.iter().zip(&up_rows).map(|(gate, up)| cosine(gate, up).abs());
        layers.push((layer.to_owned(), cosines.collect()));
    }
    Ok(layers)
}

/// Cosine of the angle between two rows; 0 when one of them is zero.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let lengths = dot(a, a).sqrt() * dot(b, b).sqrt();
    if lengths > 0.0 { (dot(a, b) / lengths).clamp(-1.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_by_hand() {
        assert_eq!(cosine(&[3.0, 0.0], &[-2.0, 0.0]), -1.0);
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f64.sqrt()).abs() < 1e-15);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 1.0]), 0.0);
    }
}
