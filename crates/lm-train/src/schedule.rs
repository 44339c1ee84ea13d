//! Learning rate as a function of the step: a pure function, so that a resumed run needs no state.

use crate::config::{OptimConfig, ScheduleConfig, ScheduleKind};

/// Learning rate of the step with index `step` (from 0) of `total` steps.
///
/// Every kind rises linearly over `warmup_steps`, reaching the peak on the last of them; a warm-up longer than the run
/// is cut to the run.
pub fn learning_rate(optim: &OptimConfig, schedule: &ScheduleConfig, step: u64, total: u64) -> f64 {
    let warmup = schedule.warmup_steps.min(total);
    if step < warmup {
        return optim.lr * (step + 1) as f64 / warmup as f64;
    }
    let floor = schedule.min_lr_ratio;
    // 0 on the first step after warm-up, 1 on the last step of the run.
    let progress = (step + 1 - warmup) as f64 / (total - warmup).max(1) as f64;
    let share = match schedule.kind {
        ScheduleKind::Cosine => floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        ScheduleKind::Linear => 1.0 - (1.0 - floor) * progress,
        ScheduleKind::InverseSqrt => (warmup.max(1) as f64 / (step + 1) as f64).sqrt(),
        ScheduleKind::Constant => 1.0,
        ScheduleKind::Wsd => {
            let decay = ((total as f64 * schedule.decay_fraction).round() as u64).clamp(1, total);
            let start = total - decay;
            if step < start { 1.0 } else { 1.0 - (1.0 - floor) * (step + 1 - start) as f64 / decay as f64 }
        }
    };
    optim.lr * share
}

/// Whether something that happens every `every` steps (0: never) happens after `step` steps.
pub fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(kind: ScheduleKind, step: u64) -> f64 {
        let optim = OptimConfig { lr: 2.0, ..Default::default() };
        let schedule = ScheduleConfig { kind, warmup_steps: 10, min_lr_ratio: 0.1, decay_fraction: 0.2 };
        learning_rate(&optim, &schedule, step, 110)
    }

    #[test]
    fn every_kind_warms_up_to_the_peak() {
        for kind in ScheduleKind::ALL {
            assert!((rate(kind, 0) - 0.2).abs() < 1e-12);
            assert!((rate(kind, 9) - 2.0).abs() < 1e-12, "{kind:?}");
            for step in 10..109 {
                assert!(rate(kind, step + 1) <= rate(kind, step) + 1e-12, "{kind:?} rises at {step}");
            }
        }
    }

    #[test]
    fn final_rates() {
        let last = |kind| rate(kind, 109);
        assert!((last(ScheduleKind::Cosine) - 0.2).abs() < 1e-12);
        assert!((last(ScheduleKind::Linear) - 0.2).abs() < 1e-12);
        assert!((last(ScheduleKind::Wsd) - 0.2).abs() < 1e-12);
        assert_eq!(last(ScheduleKind::Constant), 2.0);
        assert!((last(ScheduleKind::InverseSqrt) - 2.0 * (10f64 / 110.0).sqrt()).abs() < 1e-12);
        assert_eq!(rate(ScheduleKind::Wsd, 87), 2.0);
        assert!((rate(ScheduleKind::Cosine, 59) - 1.1).abs() < 1e-12, "half-way");
    }

    #[test]
    fn a_warm_up_longer_than_the_run_is_cut() {
        let schedule = ScheduleConfig::default();
        assert_eq!(learning_rate(&OptimConfig::default(), &schedule, 4, 5), 1e-3);
    }
}
