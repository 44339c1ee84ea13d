//! Whether intervals cover, and tests err, as often as they claim: 2,000 simulated experiments each, keyed and therefore the
//! same every time. A share of 2,000 is uncertain by half a percentage point at 5 % (one standard deviation).

use lm_eval::stats::bca::COVERAGE_OF_95;
use lm_eval::stats::{
    Effect, Refusal, Resampling, bca_mean, holm, label_permutation, sign_flip, t_interval,
    two_one_sided_tests, wilcoxon_rank_sum, wilcoxon_signed_rank,
};
use lm_train::rng::{Key, Purpose};

const EXPERIMENTS: u64 = 2_000;
const ALPHA: f64 = 0.05;
/// Three standard deviations above 5 %.
const AT_MOST: f64 = 0.065;

/// `n` normal values with mean 0 of one experiment.
fn normal(name: &str, experiment: u64, n: usize) -> Vec<f64> {
    let key = Key::new(2026, Purpose::Sampling).named(name).index(experiment);
    key.normal_f32(n, 1.0).into_iter().map(f64::from).collect()
}

/// Values of one experiment whose distribution is skewed, with mean 0.
fn skewed(name: &str, experiment: u64, n: usize) -> Vec<f64> {
    normal(name, experiment, n).into_iter().map(|x| x.exp() - 0.5f64.exp()).collect()
}

fn key(experiment: u64) -> Key {
    Key::new(1, Purpose::Resampling).index(experiment)
}

/// Share of experiments in which `holds`.
fn share(holds: impl Fn(u64) -> bool) -> f64 {
    (0..EXPERIMENTS).filter(|&experiment| holds(experiment)).count() as f64 / EXPERIMENTS as f64
}

#[test]
fn t_intervals_cover_as_often_as_they_claim() {
    for n in [3, 5, 10, 20] {
        let covered = share(|i| t_interval(&normal("t", i, n), 0.95).unwrap().contains(0.0));
        assert!((0.93..=0.97).contains(&covered), "n = {n}: {covered}");
    }
}

/// BCa is too narrow for few values: at a nominal 95 % it covers the mean of normal values as often as
/// [`COVERAGE_OF_95`] says, which this test holds to a percentage point and a half.
#[test]
fn bca_intervals_cover_as_often_as_is_said() {
    let measured = COVERAGE_OF_95.map(|(n, said)| {
        let covered = share(|i| {
            let plan = Resampling { key: key(i), resamples: 1_000 };
            bca_mean(&normal("bca", i, n), 0.95, &plan).is_ok_and(|found| found.interval.contains(0.0))
        });
        (n, said, covered)
    });
    for (_, said, covered) in measured {
        assert!((covered - said).abs() < 0.015, "values, said, measured: {measured:?}");
    }
}

#[test]
fn a_null_experiment_is_called_different_at_most_at_the_nominal_rate() {
    for n in [5, 10] {
        let t = share(|i| Effect::of_mean(&normal("null", i, n)).unwrap().t_test().p_value < ALPHA);
        let flips = share(|i| sign_flip(&normal("null", i, n), &key(i)).unwrap().p_value <= ALPHA);
        let ranks = share(|i| wilcoxon_signed_rank(&normal("null", i, n)).unwrap().p_value <= ALPHA);
        assert!((0.035..=AT_MOST).contains(&t), "t, n = {n}: {t}");
        assert!(flips <= AT_MOST && ranks <= AT_MOST, "n = {n}: {flips}, {ranks}");
        if n == 5 {
            assert_eq!((flips, ranks), (0.0, 0.0), "five pairs cannot give a p below 0.0625");
        } else {
            assert!(flips > 0.035 && ranks > 0.035, "not needlessly timid either: {flips}, {ranks}");
        }
    }
}

#[test]
fn drawn_sign_flips_keep_the_rate_too() {
    // 17 pairs are too many to enumerate; fewer experiments, because each takes 99,999 draws.
    let called = (0..100).filter(|&i| sign_flip(&normal("drawn", i, 17), &key(i)).unwrap().p_value <= ALPHA);
    assert!(called.count() <= 12);
}

#[test]
fn independent_samples_keep_the_rate() {
    let samples = |i| (normal("baseline", i, 5), normal("arm", i, 6));
    let welch = share(|i| {
        let (baseline, arm) = samples(i);
        Effect::of_difference(&baseline, &arm).unwrap().t_test().p_value < ALPHA
    });
    let permuted = share(|i| {
        let (baseline, arm) = samples(i);
        label_permutation(&baseline, &arm, &key(i)).unwrap().p_value <= ALPHA
    });
    let ranks = share(|i| {
        let (baseline, arm) = samples(i);
        wilcoxon_rank_sum(&baseline, &arm).unwrap().p_value <= ALPHA
    });
    assert!((0.03..=AT_MOST).contains(&welch), "{welch}");
    assert!((0.03..=AT_MOST).contains(&permuted), "{permuted}");
    assert!((0.02..=AT_MOST).contains(&ranks), "{ranks}");
}

#[test]
fn holm_keeps_the_rate_of_a_whole_family() {
    // Six arms against one baseline, so that the six p-values depend on each other.
    let family = |i: u64| -> Vec<f64> {
        let baseline = normal("family baseline", i, 8);
        let arm = |arm: u64| normal(&format!("family arm {arm}"), i, 8);
        let p_value = |arm: Vec<f64>| {
            let differences: Vec<f64> = arm.iter().zip(&baseline).map(|(a, b)| a - b).collect();
            Effect::of_mean(&differences).unwrap().t_test().p_value
        };
        (0..6).map(arm).map(p_value).collect()
    };
    let any = |p_values: &[f64]| p_values.iter().any(|p| *p < ALPHA);
    let adjusted = share(|i| any(&holm(&family(i)).unwrap().adjusted));
    let plain = share(|i| any(&family(i)));
    assert!(adjusted <= AT_MOST, "{adjusted}");
    assert!(plain > 0.12, "without Holm some arm of six is called different in {plain}");
}

#[test]
fn equivalence_is_claimed_at_most_at_the_nominal_rate_on_the_margin() {
    let claimed = share(|i| {
        let values: Vec<f64> = normal("margin", i, 10).into_iter().map(|x| x + 1.0).collect();
        two_one_sided_tests(&Effect::of_mean(&values).unwrap(), 1.0, ALPHA).unwrap().p_value < ALPHA
    });
    assert!(claimed <= AT_MOST, "{claimed}");
}

#[test]
fn on_skewed_values_neither_interval_covers_as_claimed() {
    // Log-normal with sigma 1, twenty values: both fall short, and both are held to what they were measured to do.
    let t = share(|i| t_interval(&skewed("skew", i, 20), 0.95).unwrap().contains(0.0));
    let bca = share(|i| {
        let plan = Resampling { key: key(i), resamples: 1_000 };
        match bca_mean(&skewed("skew", i, 20), 0.95, &plan) {
            Ok(found) => found.interval.contains(0.0),
            Err(Refusal::BeyondResamples | Refusal::Lopsided) => false,
            Err(other) => panic!("{other}"),
        }
    });
    println!("skewed, n = 20: t {t}, BCa {bca}");
    assert!((0.80..0.92).contains(&t) && (0.80..0.92).contains(&bca), "t {t}, BCa {bca}");
}
