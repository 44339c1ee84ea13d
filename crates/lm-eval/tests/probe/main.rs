//! A probe says what a plain computation in f64 says, for every block and in every precision.

mod plain;

use candle_core::{DType, Device, Tensor};
use ffn_variants::{Activation, BranchName, FfnPreset, Precision, PrecisionPreset};
use kernels::Kernels;
use lm_eval::perplexity::EvalText;
use lm_eval::probe::{CETT_LEVEL, Options, ProbeReport, probe, report};
use lm_train::config::ConfigSource;
use lm_train::data::TokenStream;
use lm_train::loaded::LoadedRun;
use lm_train::model::{ParamStore, Transformer};
use lm_train::probe::prune::BISECTIONS;
use lm_train::probe::{Bins, SATURATED_BELOW, Threshold};
use nalgebra::DMatrix;
use plain::{Plain, norm};

const VOCAB: usize = 32;

/// A run that was never trained, in memory: large initial weights, so that nothing is lost in rounding.
fn run(model: &str, ffn: &str, precision: PrecisionPreset) -> LoadedRun {
    let text = format!(
        "[model]\ninit_std = 0.3\n{model}\n[model.ffn]\n{ffn}\n[train]\nbatch_size = 8\n\
         [precision]\npreset = \"{}\"\n",
        precision.name()
    );
    let config = ConfigSource::from_text("test", &text, &[]).and_then(|s| s.resolve()).expect("a config");
    let params = ParamStore::new(7, DType::F32, &Device::Cpu);
    let precision = Precision::new(config.precision.resolve().unwrap(), 0).for_evaluation();
    let build = |vb| Transformer::new(&config.model, VOCAB, vb, Kernels::Portable, &precision).unwrap();
    build(params.builder());
    let model = build(params.detached_builder());
    LoadedRun {
        path: "run".into(),
        config,
        tokenizer: None,
        vocab_size: VOCAB,
        step: 3,
        params,
        model,
        precision,
        loss_scale: 1.0,
        summary: None,
        device: Device::Cpu,
    }
}

const TINY: &str = "d_model = 8\nn_layer = 2\nn_head = 2\nseq_len = 6";

fn tiny(ffn: &str) -> LoadedRun {
    run(TINY, &format!("{ffn}\nwidth = {{ exact = 10 }}"), PrecisionPreset::Fp32)
}

fn ids(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 7 + i * i * 3 + i / 5) % VOCAB as u32).collect()
}

fn look(run: &LoadedRun, ids: &[u32], small: Threshold) -> ProbeReport {
    let text = EvalText { stream: TokenStream::from_ids(ids), bytes: None };
    let options = Options { tokens: ids.len() - 1, small };
    probe(run, &text, Kernels::Portable, &options, &mut |done, total| assert!(done <= total)).unwrap()
}

fn close(found: f64, expected: f64, tolerance: f64) {
    let error = (found - expected).abs();
    assert!(error <= tolerance * expected.abs().max(1e-3), "{found} instead of {expected}");
}

/// Sets some rows of a weight to zero.
fn clear_rows(run: &LoadedRun, name: &str, rows: std::ops::Range<usize>) {
    let vars = run.params.vars();
    let var = &vars.iter().find(|param| param.name == name).expect(name).var;
    let mut values: Vec<Vec<f32>> = var.to_vec2().unwrap();
    values[rows].iter_mut().for_each(|row| row.fill(0.0));
    let tensor = Tensor::from_vec(values.concat(), var.shape(), &Device::Cpu).unwrap();
    var.set(&tensor).unwrap();
}

/// Every figure of a report against the plain computation.
fn check(run: &LoadedRun, plain: &Plain, ids: &[u32], small: Threshold) -> ProbeReport {
    let found = look(run, ids, small);
    let trace = plain.forward(ids, None);
    let tokens = ids.len() - 1;
    assert_eq!((found.tokens, found.step, found.layers.len()), (tokens as u64, 3, 2));
    close(found.loss, plain.loss(ids, None), 1e-5);
    for (l, layer) in found.layers.iter().enumerate() {
        let hidden: Vec<f64> = trace.hidden[l].concat();
        let n = hidden.len() as f64;
        let share = |of: &dyn Fn(f64) -> bool| hidden.iter().filter(|h| of(**h)).count() as f64 / n;
        let figures = &layer.hidden;
        assert_eq!((figures.layer.as_str(), layer.d_ff), (&*format!("model.layers.{l}.mlp"), plain.d_ff));
        assert_eq!(figures.zero_share, share(&|h| h == 0.0));
        let rms = (hidden.iter().map(|h| h * h).sum::<f64>() / n).sqrt();
        close(figures.rms, rms, 1e-5);
        match small {
            Threshold::Absolute(eps) => assert_eq!(figures.eps, eps),
            Threshold::OfRms(part) => {
                assert!(figures.eps <= part * figures.rms && figures.eps > part * figures.rms / 1.016);
            }
        }
        assert!((figures.small_share - share(&|h| h.abs() < figures.eps)).abs() <= 1.5 / n);
        close(figures.max_abs, hidden.iter().fold(0.0, |max, h| h.abs().max(max)), 1e-5);
        let mean = hidden.iter().sum::<f64>() / n;
        let central = |power| hidden.iter().map(|h| (h - mean).powi(power)).sum::<f64>() / n;
        close(figures.kurtosis.unwrap(), central(4) / central(2).powi(2), 1e-4);

        let saturated = &figures.saturated[0];
        // A difference of values instead of the derivative, on the left of a kink.
        let vanished = |x: f64| {
            let slope = (plain_gate(saturated, x) - plain_gate(saturated, x - 1e-7)) / 1e-7;
            slope.abs() < SATURATED_BELOW
        };
        let pre = trace.preactivations[l].concat();
        let share = pre.iter().filter(|x| vanished(**x)).count() as f64 / pre.len() as f64;
        assert!((saturated.share - share).abs() < 1.5 / n, "{saturated:?} {share}");

        let unit_max = |i: usize| trace.hidden[l].iter().fold(0.0, |max: f64, token| max.max(token[i].abs()));
        let units = |of: &dyn Fn(f64) -> bool| (0..plain.d_ff).filter(|&i| of(unit_max(i))).count() as u64;
        assert_eq!(layer.dead_units, found.can_die.then(|| units(&|max| max == 0.0)));
        assert_eq!(layer.small_units, units(&|max| max < figures.eps));

        let (cett, sparsity) = plain.cett(l, &trace.hidden[l], layer.cett.threshold);
        close(layer.cett.cett, cett, 1e-4);
        assert!((layer.cett.sparsity - sparsity).abs() < 1.5 / n && layer.cett.level == CETT_LEVEL);
        assert_eq!(layer.cett.threshold, threshold(plain, l, &trace.hidden[l], CETT_LEVEL));

        let matrix = DMatrix::from_row_iterator(tokens, plain.d_ff, hidden.iter().copied());
        let singular = matrix.singular_values();
        let entropy: f64 =
            singular.iter().map(|s| s / singular.sum()).filter(|p| *p > 1e-12).map(|p| -p * p.ln()).sum();
        close(layer.effective_rank.unwrap(), entropy.exp(), 1e-4);

        let residual = &trace.residual[l];
        let mut maxima: Vec<(f64, usize)> = (0..plain.d)
            .map(|k| (residual.iter().fold(0.0, |max: f64, token| max.max(token[k].abs())), k))
            .collect();
        maxima.sort_by(|a, b| b.0.total_cmp(&a.0));
        close(layer.residual.max_abs, maxima[0].0, 1e-5);
        let median = (maxima[3].0 + maxima[4].0) / 2.0;
        for (channel, (max, k)) in layer.residual.channels.iter().zip(&maxima) {
            assert_eq!(channel.channel, *k);
            close(channel.over_median.unwrap(), max / median, 1e-5);
        }
    }
    // The thresholds that perplexity allows: at them it does, and one step of the bisection further it does not.
    let ppl = &found.ppl_sparsity;
    close(ppl.loss, plain.loss(ids, Some(&ppl.thresholds)), 1e-4);
    assert!(ppl.perplexity_ratio <= 1.01 && ppl.level < 1.0);
    let dropped = plain.forward(ids, Some(&ppl.thresholds)).dropped;
    for (l, share) in ppl.layers.iter().enumerate() {
        let expected = dropped[l] as f64 / (tokens * plain.d_ff) as f64;
        assert!((share - expected).abs() < 2.5 / (tokens * plain.d_ff) as f64, "{share} {expected}");
    }
    close(ppl.sparsity, ppl.layers.iter().sum::<f64>() / 2.0, 1e-12);
    let further = ppl.level + 0.5f64.powi(BISECTIONS as i32);
    let further: Vec<f64> = (0..2).map(|l| threshold(plain, l, &trace.hidden[l], further)).collect();
    assert!(plain.loss(ids, Some(&further)) - found.loss > 1.01f64.ln(), "more could be dropped");
    found
}

fn plain_gate(saturated: &lm_train::probe::Saturation, x: f64) -> f64 {
    let activation = Activation::ALL.into_iter().find(|a| a.to_string() == saturated.activation);
    activation.expect("an activation").value_f64(x)
}

/// The largest edge up to which the CETT stays within a level.
fn threshold(plain: &Plain, layer: usize, hidden: &[Vec<f64>], level: f64) -> f64 {
    let lengths = hidden.iter().flat_map(|token| {
        token.iter().enumerate().map(|(i, &h)| norm(&plain.neuron(layer, i, h))).collect::<Vec<_>>()
    });
    let mut bins: Vec<usize> = lengths.map(Bins::of).collect();
    bins.sort_unstable();
    bins.dedup();
    // Between two occupied bins nothing changes: the edge at the next occupied one stands for all.
    let mut within = Bins::edge(bins[0]);
    for pair in bins.windows(2) {
        if plain.cett(layer, hidden, Bins::edge(pair[1])).0 > level {
            return within;
        }
        within = Bins::edge(pair[1]);
    }
    within
}

#[test]
fn a_gated_block_is_measured_as_defined() {
    let run = tiny("preset = \"swiglu\"");
    let plain = Plain::of(&run, true, Activation::Silu);
    let found = check(&run, &plain, &plain.text(63), Threshold::OfRms(0.05));
    assert!(!found.can_die && found.layers[0].dead_units.is_none());
    for (l, layer) in found.layers.iter().enumerate() {
        let rows = |which: &str| plain.tensors[&format!("model.layers.{l}.mlp.{which}_proj.weight")].clone();
        let (gate, up) = (rows("gate"), rows("up"));
        let cosines = gate
            .chunks(8)
            .zip(up.chunks(8))
            .map(|(a, b)| (a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / (norm(a) * norm(b))).abs());
        let cosines: Vec<f64> = cosines.collect();
        let found = layer.gate_up_cosine.unwrap();
        close(found.mean, cosines.iter().sum::<f64>() / 10.0, 1e-6);
        close(found.max, cosines.iter().copied().fold(0.0, f64::max), 1e-6);
        assert_eq!(layer.hidden.saturated[1].branch, BranchName::Up);
        assert_eq!(layer.hidden.saturated[1].share, 0.0, "the identity is nowhere flat");
    }
    assert!(found.notes.iter().any(|note| note.contains("cannot be dead")), "{:?}", found.notes);
}

#[test]
fn planted_dead_units_are_counted() {
    let run = tiny("preset = \"relu\"");
    clear_rows(&run, "model.layers.1.mlp.up_proj.weight", 2..5);
    let plain = Plain::of(&run, false, Activation::Relu);
    let found = check(&run, &plain, &plain.text(61), Threshold::Absolute(0.1));
    assert!(found.can_die && found.layers[0].gate_up_cosine.is_none());
    let dead: Vec<_> = found.layers.iter().map(|layer| layer.dead_units).collect();
    assert_eq!(dead, [Some(0), Some(3)]);
    assert!(found.layers[1].hidden.zero_share >= 0.3);
    // A ReLU's derivative is zero exactly where its value is.
    for layer in &found.layers {
        assert_eq!(layer.hidden.saturated[0].share, layer.hidden.zero_share);
    }
    assert!(found.notes.iter().any(|note| note.contains("no gate")), "{:?}", found.notes);

    // A layer without any activation: everything can be dropped, and nothing is divided by zero.
    clear_rows(&run, "model.layers.0.mlp.up_proj.weight", 0..10);
    let found = look(&run, &ids(61), Threshold::default());
    let silent = &found.layers[0];
    assert_eq!(
        (silent.hidden.zero_share, silent.hidden.small_share, silent.dead_units),
        (1.0, 1.0, Some(10))
    );
    assert_eq!((silent.cett.sparsity, silent.effective_rank, silent.hidden.kurtosis), (1.0, None, None));
    assert_eq!(silent.outliers.channels[0].over_median, None);
    assert!(report(&found, None).contains("100.0%"));
}

#[test]
fn blocks_that_do_nothing_can_be_dropped_whole() {
    let run = tiny("preset = \"relu\"");
    (0..2).for_each(|l| clear_rows(&run, &format!("model.layers.{l}.mlp.up_proj.weight"), 0..10));
    let found = look(&run, &ids(61), Threshold::default());
    let ppl = &found.ppl_sparsity;
    assert_eq!((ppl.level, ppl.sparsity, ppl.perplexity_ratio), (1.0, 1.0, 1.0));
    assert!(found.notes.iter().any(|note| note.contains("hardly matter")), "{:?}", found.notes);
}

#[test]
fn activations_that_are_not_finite_are_refused() {
    let run = tiny("preset = \"relu_squared\"");
    let vars = run.params.vars();
    let up = vars.iter().find(|param| param.name == "model.layers.1.mlp.up_proj.weight").expect("the tensor");
    up.var.set(&(up.var.as_tensor() * 1e25).unwrap()).unwrap();
    let text = EvalText { stream: TokenStream::from_ids(&ids(61)), bytes: None };
    let error = probe(&run, &text, Kernels::Portable, &Options::default(), &mut |_, _| {}).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("model.layers.1.mlp are NaN or infinite"), "{error}");
}

#[test]
fn gradient_norms_are_slopes_of_the_loss() {
    let run = tiny("preset = \"geglu\"");
    let mut plain = Plain::of(&run, true, Activation::GeluErf);
    let ids = ids(43);
    // Up to a batch of 8 windows of 6 tokens is differentiated; here it is all.
    let found = look(&run, &ids, Threshold::default()).gradients;
    assert_eq!((found.tokens, found.tensors.len()), (42, 21));
    for name in ["model.layers.0.mlp.gate_proj.weight", "model.layers.1.post_attention_layernorm.weight"] {
        let len = plain.tensors[name].len();
        let mut slope = |i: usize| {
            let mut at = |step: f64| {
                plain.tensors.get_mut(name).expect(name)[i] += step;
                let loss = plain.loss(&ids, None);
                plain.tensors.get_mut(name).expect(name)[i] -= step;
                loss
            };
            (at(1e-5) - at(-1e-5)) / 2e-5
        };
        let slopes: Vec<f64> = (0..len).map(&mut slope).collect();
        let tensor = found.tensors.iter().find(|tensor| tensor.name == name).expect(name);
        close(tensor.norm, norm(&slopes), 1e-4);
    }
    let all: Vec<f64> = found.tensors.iter().map(|tensor| tensor.norm).collect();
    close(found.norm, norm(&all), 1e-12);
}

#[test]
fn half_of_relus_derivatives_are_zero_at_initialisation_and_fewer_of_others() {
    let share = |ffn: &str| {
        let run = run("d_model = 32\nn_layer = 1\nn_head = 2\nseq_len = 32", ffn, PrecisionPreset::Fp32);
        let found = look(&run, &ids(513), Threshold::default());
        found.layers[0].at_init.saturated[0].share
    };
    let relu = share("preset = \"relu\"");
    assert!((relu - 0.5).abs() < 0.05, "{relu}");
    assert!(share("preset = \"swish\"") < 0.1 && share("preset = \"bilinear\"") == 0.0);
}

#[test]
fn initial_figures_are_of_the_seeds_first_weights() {
    let run = tiny("preset = \"reglu\"");
    // The run's weights were drawn with seed 7, its config says 0.
    let found = look(&run, &ids(61), Threshold::default());
    assert_ne!(found.layers[0].at_init, found.layers[0].hidden);
    let mut same = tiny("preset = \"reglu\"");
    same.config.seed = 7;
    let found = look(&same, &ids(61), Threshold::default());
    for layer in &found.layers {
        assert_eq!(layer.at_init, layer.hidden);
    }
}

#[test]
fn every_block_can_be_looked_into() {
    for preset in FfnPreset::ALL {
        let found = look(&tiny(&format!("preset = \"{}\"", preset.name())), &ids(25), Threshold::default());
        for layer in &found.layers {
            assert!(
                (0.0..=1.0).contains(&layer.cett.sparsity) && layer.cett.cett <= CETT_LEVEL,
                "{preset:?}"
            );
            assert!(layer.cett.sparsity >= layer.hidden.zero_share, "{preset:?}");
            assert!(layer.effective_rank.is_some_and(|rank| (1.0..=10.0).contains(&rank)), "{preset:?}");
        }
        let text = report(&found, None);
        assert!(text.contains("at +1% perplexity") && !text.contains("NaN"), "{text}");
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["layers"].as_array().map(Vec::len), Some(2));
    }
}

#[test]
fn every_precision_can_be_looked_into() {
    let model = "d_model = 128\nn_layer = 1\nn_head = 2\nseq_len = 16";
    let exact = look(
        &run(model, "preset = \"swiglu\"\nwidth = { exact = 128 }", PrecisionPreset::Fp32),
        &ids(129),
        Threshold::default(),
    );
    for precision in PrecisionPreset::ALL {
        let run = run(model, "preset = \"swiglu\"\nwidth = { exact = 128 }", precision);
        let found = look(&run, &ids(129), Threshold::default());
        assert_eq!(found.precision, precision.name());
        let layer = &found.layers[0];
        assert!(layer.hidden.rms > 0.0 && layer.cett.cett <= CETT_LEVEL && layer.cett.sparsity > 0.0);
        assert!(found.gradients.tensors.iter().all(|tensor| tensor.norm.is_finite() && tensor.norm > 0.0));
        // The loss is the one that evaluation finds.
        let text = EvalText { stream: TokenStream::from_ids(&ids(129)), bytes: None };
        let evaluated = lm_eval::perplexity::perplexity(&run, &text, None, &mut |_, _| {}).unwrap();
        close(found.loss, evaluated.loss, 1e-5);
        if precision == PrecisionPreset::Fp32 {
            assert_eq!(found, exact, "twice the same");
        }
    }
}
