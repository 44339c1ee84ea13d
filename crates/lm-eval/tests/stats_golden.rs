//! The statistics against SciPy. `scripts/golden/stats.py` made the numbers; its versions are in the file.

use lm_eval::stats::{Estimate, paired_differences};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    estimates: Vec<Sample>,
    paired: Vec<Pair>,
}

#[derive(Deserialize)]
struct Sample {
    name: String,
    values: Vec<f64>,
    mean: f64,
    sd: f64,
    ci95: (f64, f64),
}

#[derive(Deserialize)]
struct Pair {
    name: String,
    baseline: Vec<f64>,
    arm: Vec<f64>,
    mean: f64,
    sd: f64,
    ci95: (f64, f64),
    p_value: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("data/stats.json")).expect("the golden file is valid")
}

/// Asserts agreement to `tolerance`, relative to `scale`.
fn close(what: &str, ours: f64, scipy: f64, scale: f64, tolerance: f64) {
    assert!((ours - scipy).abs() <= tolerance * scale.abs(), "{what}: {ours:e} here, {scipy:e} in SciPy");
}

fn compare(name: &str, ours: &Estimate, mean: f64, sd: f64, ci95: (f64, f64)) {
    let (low, high) = ours.ci95.expect("a sample with spread has an interval");
    let size = mean.abs().max(sd);
    close(&format!("mean of {name}"), ours.mean, mean, size, 1e-13);
    close(&format!("sd of {name}"), ours.sd.expect("n > 1"), sd, sd, 1e-9);
    close(&format!("low end of {name}"), low, ci95.0, size, 1e-12);
    close(&format!("high end of {name}"), high, ci95.1, size, 1e-12);
    close(&format!("width of {name}"), high - low, ci95.1 - ci95.0, ci95.1 - ci95.0, 1e-6);
}

#[test]
fn estimates_match_scipy() {
    let samples = golden().estimates;
    assert!(samples.len() >= 12);
    for s in samples {
        let ours = Estimate::of(&s.values).expect("a sample");
        assert_eq!(ours.n, s.values.len());
        compare(&s.name, &ours, s.mean, s.sd, s.ci95);
    }
}

#[test]
fn paired_differences_match_scipy() {
    let pairs = golden().paired;
    assert!(pairs.len() >= 8);
    for p in pairs {
        let by_seed = |values: &[f64]| (0..).zip(values.iter().copied()).collect::<Vec<(u64, f64)>>();
        let ours = paired_differences(&by_seed(&p.baseline), &by_seed(&p.arm)).expect("pairs");
        assert_eq!(ours.seeds_used.len(), p.arm.len());
        assert!(ours.seeds_missing.is_empty());
        compare(&p.name, &ours.estimate, p.mean, p.sd, p.ci95);
        close(&format!("p of {}", p.name), ours.p_value.expect("n > 1"), p.p_value, p.p_value, 1e-9);
    }
}
