//! Health of quantised operands: what a run writes on the way, and what it comes to.

use std::collections::BTreeMap;

use ffn_variants::precision::TensorHealth;
use serde::{Deserialize, Serialize};

use super::metrics::Metric;

/// How one operand of one layer fared in one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthRow {
    /// The layer, such as `model.layers.0.mlp.down_proj`.
    pub layer: String,
    /// `input`, `weight` or `grad`.
    pub operand: String,
    /// Its number format.
    pub format: String,
    /// Largest finite magnitude.
    pub amax: f64,
    /// Share of elements beyond the format's range at their scale.
    pub saturated: f64,
    /// Share of elements that were not zero and became zero.
    pub flushed: f64,
    /// Signal to quantisation noise, decibels; absent when there was no noise, or no signal.
    pub sqnr_db: Option<f64>,
    /// Smallest scale in use.
    pub scale_min: f64,
    /// Largest scale in use.
    pub scale_max: f64,
    /// NaN and infinities.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub non_finite: u64,
}

impl HealthRow {
    /// The row of what was seen.
    pub fn new(seen: &TensorHealth) -> Self {
        let health = &seen.health;
        Self {
            layer: seen.layer.clone(),
            operand: seen.role.name().to_owned(),
            format: seen.format.name().to_owned(),
            amax: f64::from(health.amax),
            saturated: health.saturated_share(),
            flushed: health.flushed_share(),
            sqnr_db: Some(health.sqnr_db()).filter(|db| db.is_finite()),
            scale_min: f64::from(health.scale_min),
            scale_max: f64::from(health.scale_max),
            non_finite: health.non_finite,
        }
    }
}

/// One kind of operand over a whole run: all layers and all steps that were looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthSummary {
    /// `input`, `weight` or `grad`.
    pub operand: String,
    /// Its number format.
    pub format: String,
    /// Rows that went into this one.
    pub samples: u64,
    /// Largest magnitude.
    pub amax: f64,
    /// Largest share that saturated in one layer and step.
    pub saturated_max: f64,
    /// Mean share that was flushed to zero.
    pub flushed_mean: f64,
    /// Mean signal to quantisation noise, decibels.
    pub sqnr_db_mean: Option<f64>,
    /// Worst signal to quantisation noise in one layer and step, decibels.
    pub sqnr_db_min: Option<f64>,
    /// The layer where that was.
    pub worst_layer: Option<String>,
}

/// The health rows of a run by operand and format.
pub fn summarise_health(metrics: &[Metric]) -> Vec<HealthSummary> {
    let mut kinds: BTreeMap<(&str, &str), Vec<&HealthRow>> = BTreeMap::new();
    for metric in metrics {
        if let Metric::Health { tensor, .. } = metric {
            kinds.entry((&tensor.operand, &tensor.format)).or_default().push(tensor);
        }
    }
    kinds.into_values().map(|rows| summary(&rows)).collect()
}

/// `rows` holds at least one row.
fn summary(rows: &[&HealthRow]) -> HealthSummary {
    let max = |of: fn(&HealthRow) -> f64| rows.iter().map(|row| of(row)).fold(0.0, f64::max);
    let with_noise: Vec<(f64, &str)> =
        rows.iter().filter_map(|row| Some((row.sqnr_db?, row.layer.as_str()))).collect();
    let worst = with_noise.iter().min_by(|a, b| a.0.total_cmp(&b.0));
    let sum: f64 = with_noise.iter().map(|(db, _)| db).sum();
    HealthSummary {
        operand: rows[0].operand.clone(),
        format: rows[0].format.clone(),
        samples: rows.len() as u64,
        amax: max(|row| row.amax),
        saturated_max: max(|row| row.saturated),
        flushed_mean: rows.iter().map(|row| row.flushed).sum::<f64>() / rows.len() as f64,
        sqnr_db_mean: (!with_noise.is_empty()).then(|| sum / with_noise.len() as f64),
        sqnr_db_min: worst.map(|(db, _)| *db),
        worst_layer: worst.map(|(_, layer)| (*layer).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(layer: &str, operand: &str, sqnr_db: Option<f64>, saturated: f64) -> Metric {
        let (layer, operand, format) = (layer.to_owned(), operand.to_owned(), "e4m3".to_owned());
        let (amax, flushed, scale_min, scale_max) = (2.0, 0.5, 1.0, 1.0);
        let tensor = HealthRow {
            layer,
            operand,
            format,
            amax,
            saturated,
            flushed,
            sqnr_db,
            scale_min,
            scale_max,
            non_finite: 0,
        };
        Metric::Health { step: 1, tensor }
    }

    #[test]
    fn the_worst_layer_is_named() {
        let metrics = [
            row("a", "input", Some(30.0), 0.0),
            row("b", "input", Some(20.0), 0.25),
            row("c", "input", None, 0.0),
            row("a", "weight", None, 0.0),
        ];
        let summaries = summarise_health(&metrics);
        assert_eq!(summaries.len(), 2);
        let input = &summaries[0];
        assert_eq!((input.samples, input.saturated_max, input.flushed_mean), (3, 0.25, 0.5));
        assert_eq!((input.sqnr_db_mean, input.sqnr_db_min), (Some(25.0), Some(20.0)));
        assert_eq!(input.worst_layer.as_deref(), Some("b"));
        assert_eq!((summaries[1].sqnr_db_min, &summaries[1].worst_layer), (None, &None));
    }
}
