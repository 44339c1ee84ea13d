//! Every format and every awkward situation, as readers see it.

use insta::assert_snapshot;

use super::super::collect::{Collection, Problem, ProblemKind};
use super::super::comparison::{Comparison, Options, Order};
use super::super::testing::{RunMaker, collection, nine_variants};
use super::*;

fn comparison(collection: &Collection) -> Comparison {
    Comparison::new(collection, &Options::default()).unwrap()
}

fn table(collection: &Collection) -> String {
    export(&comparison(collection), Format::Table, Some(100))
}

/// Two variants, three seeds, and a third arm with a larger model whose only run has one of the seeds.
fn three_arms() -> Collection {
    let seeds = |ffn: &'static str| (0..3).map(move |seed| RunMaker::new(ffn, seed));
    let wide = RunMaker::new("reglu", 2).with(|summary| {
        summary.d_ff = 512;
        summary.params.total += 258_048;
        summary.flops_per_token += 516_096;
    });
    collection(seeds("relu").chain(seeds("geglu")).chain([wide]))
}

#[test]
fn nine_variants_beside_the_published_figures() {
    let options = Options { published: true, ..Options::default() };
    let comparison = Comparison::new(&nine_variants(5), &options).unwrap();
    assert_snapshot!(export(&comparison, Format::Table, Some(120)), @r"
    ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     FFN           d_ff  params  seeds         val loss    ppl   above            Δ relu  wins        Shazeer  Shazeer
                                                   (sd)          floor             ± 95%                 (sd)   Δ relu
    ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     relu           512  1.312M      5  3.0422 (0.0315)  20.95  0.5422          baseline     –  1.997 (0.005)   +0.000
     gelu           512  1.312M      5  3.0259 (0.0283)  20.61  0.5259  -0.0163 ± 0.0045   5/5  1.983 (0.005)   -0.014
     swish          512  1.312M      5  3.0375 (0.0349)  20.85  0.5375  -0.0047 ± 0.0045   4/5  1.994 (0.003)   -0.003
     glu            344  1.316M      5  3.0259 (0.0286)  20.61  0.5259  -0.0163 ± 0.0038   5/5  1.982 (0.006)   -0.015
     bilinear       344  1.316M      5  3.0017 (0.0289)  20.12  0.5017  -0.0405 ± 0.0045   5/5  1.960 (0.005)   -0.037
     geglu *        344  1.316M      5  2.9837 (0.0343)  19.76  0.4837  -0.0585 ± 0.0047   5/5  1.942 (0.004)   -0.055
     swiglu ≈       344  1.316M      5  2.9885 (0.0291)  19.86  0.4885  -0.0537 ± 0.0030   5/5  1.944 (0.010)   -0.053
     reglu          344  1.316M      5  2.9942 (0.0297)  19.97  0.4942  -0.0480 ± 0.0042   5/5  1.953 (0.003)   -0.044
     relu_squared   512  1.312M      5  2.9983 (0.0337)  20.05  0.4983  -0.0440 ± 0.0045   5/5              –        –
    ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    Losses are held-out, nats per token: mean over 5 seeds (standard deviation); the floor is the exact entropy of the text.
      Δ is the mean difference from relu within a seed ± half its 95% interval (Student's t); wins counts the seeds with a
      lower loss
    * lowest loss over the seeds of relu; ≈ not shown to be worse: its 95% interval against * includes zero, or needs more
      seeds
    Each of the 8 intervals holds at 95% by itself, not all of them together
    Shazeer 2020, arXiv:2002.05202: held-out log-perplexity of T5-base on C4 after 65536 steps, four runs (standard
      deviation); another model and other data, so compare signs and order
    Left out to fit the width: FLOPs/token, bits/byte
    ");
}

#[test]
fn tables_fit_the_width_and_say_what_is_left_out() {
    let nine = comparison(&nine_variants(5));
    for width in [70, 80, 90, 100, 110, 120] {
        let text = export(&nine, Format::Table, Some(width));
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= width, "{longest} > {width}\n{text}");
        assert_eq!(text.contains("Left out to fit the width: FLOPs/token"), width < 110, "{width}\n{text}");
    }
    assert!(!export(&nine, Format::Table, None).contains("Left out"));
}

#[test]
fn labels_wrap_where_nothing_can_be_left_out() {
    let arm = |beta2: f64, kind| {
        let config = format!("optim.beta2 = {beta2}\nschedule.kind = '{kind}'");
        RunMaker::new("swiglu", 0).config(&config).loss(3.0 + beta2)
    };
    let arms = [arm(0.001, "inverse_sqrt"), arm(0.01, "cosine")];
    assert_snapshot!(export(&comparison(&collection(arms)), Format::Table, Some(48)), @r"
    ────────────────────────────────────────────────
     FFN                seeds  val loss  Δ baseline
                                   (sd)
    ────────────────────────────────────────────────
     swiglu                 1    3.0010    baseline
     beta2=0.001
     kind=inverse_sqrt
     *
     swiglu beta2=0.01      1    3.0100     +0.0090
     kind=cosine ≈
    ────────────────────────────────────────────────
    Warning: one seed per arm: no spread, no
      interval, and the order may be chance
    Losses are held-out, nats per token: one seed. Δ
      is the mean difference from swiglu beta2=0.001
      kind=inverse_sqrt within a seed; wins counts
      the seeds with a lower loss
    * lowest loss over the seeds of swiglu
      beta2=0.001 kind=inverse_sqrt; ≈ not shown to
      be worse: its 95% interval against * includes
      zero, or needs more seeds
    Left out to fit the width: FLOPs/token,
      bits/byte, d_ff, wins, params, ppl
    ");
}

#[test]
fn one_seed_a_missing_pair_and_a_larger_model() {
    assert_snapshot!(table(&three_arms()), @r"
    ───────────────────────────────────────────────────────────────────────────────────────────────────
     FFN      d_ff       params   FLOPs  seeds         val loss    ppl    bits            Δ relu  wins
                                 /token                    (sd)          /byte             ± 95%
    ───────────────────────────────────────────────────────────────────────────────────────────────────
     relu      512  1.312M       2.097M      3  3.0226 (0.0217)  20.54  1.0902          baseline     –
     geglu *   344  1.316M       2.106M      3  3.0167 (0.0206)  20.42  1.0881  -0.0059 ± 0.0037   3/3
     reglu ≈   512  1.574M +20%  2.622M      1  3.0368           20.84  1.0953  -0.0072            1/1
    ───────────────────────────────────────────────────────────────────────────────────────────────────
    Warning: parameters differ by more than 1% from relu: reglu +20%
    Warning: Δ is over seeds that both the arm and relu finished; without a pair: reglu (0, 1)
    Warning: few seeds: one alone has no spread and no interval, below 5 both are rough
    Losses are held-out, nats per token: mean over 1 to 3 seeds (standard deviation). Δ is the mean
      difference from relu within a seed ± half its 95% interval (Student's t); wins counts the seeds
      with a lower loss
    * lowest loss over the seeds of relu; ≈ not shown to be worse: its 95% interval against * includes
      zero, or needs more seeds
    ");
}

#[test]
fn markdown() {
    assert_snapshot!(export(&comparison(&three_arms()), Format::Markdown, None), @r"
    | FFN      | d_ff |      params | FLOPs/token | seeds |   val loss (sd) |   ppl | bits/byte |     Δ relu ± 95% | wins |
    | -------- | ---: | ----------: | ----------: | ----: | --------------: | ----: | --------: | ---------------: | ---: |
    | relu     |  512 | 1.312M      |      2.097M |     3 | 3.0226 (0.0217) | 20.54 |    1.0902 |         baseline |    – |
    | geglu \* |  344 | 1.316M      |      2.106M |     3 | 3.0167 (0.0206) | 20.42 |    1.0881 | -0.0059 ± 0.0037 |  3/3 |
    | reglu ≈  |  512 | 1.574M +20% |      2.622M |     1 | 3.0368          | 20.84 |    1.0953 | -0.0072          |  1/1 |

    - Warning: parameters differ by more than 1% from relu: reglu +20%
    - Warning: Δ is over seeds that both the arm and relu finished; without a pair: reglu (0, 1)
    - Warning: few seeds: one alone has no spread and no interval, below 5 both are rough
    - Losses are held-out, nats per token: mean over 1 to 3 seeds (standard deviation). Δ is the mean difference from relu within a seed ± half its 95% interval (Student's t); wins counts the seeds with a lower loss
    - \* lowest loss over the seeds of relu; ≈ not shown to be worse: its 95% interval against \* includes zero, or needs more seeds
    ");
}

#[test]
fn latex() {
    assert_snapshot!(export(&comparison(&three_arms()), Format::Latex, None), @r"
    % needs \usepackage{booktabs}
    \begin{table}
      \centering
      \begin{tabular}{lrrrrrrrrr}
        \toprule
        FFN & d\_ff & params & FLOPs/token & seeds & val loss (sd) & ppl & bits/byte & $\Delta$ relu $\pm$ 95\% & wins \\
        \midrule
        relu & 512 & 1.312M & 2.097M & 3 & 3.0226 (0.0217) & 20.54 & 1.0902 & baseline & -- \\
        geglu $^{*}$ & 344 & 1.316M & 2.106M & 3 & 3.0167 (0.0206) & 20.42 & 1.0881 & $-0.0059 \pm 0.0037$ & 3/3 \\
        reglu $\approx$ & 512 & 1.574M +20\% & 2.622M & 1 & 3.0368 & 20.84 & 1.0953 & $-0.0072$ & 1/1 \\
        \bottomrule
      \end{tabular}

      \smallskip
      \begin{minipage}{\linewidth}\footnotesize
        Warning: parameters differ by more than 1\% from relu: reglu +20\%.\par
        Warning: $\Delta$ is over seeds that both the arm and relu finished; without a pair: reglu (0, 1).\par
        Warning: few seeds: one alone has no spread and no interval, below 5 both are rough.\par
        Losses are held-out, nats per token: mean over 1 to 3 seeds (standard deviation). $\Delta$ is the mean difference from relu within a seed $\pm$ half its 95\% interval (Student's t); wins counts the seeds with a lower loss.\par
        $^{*}$ lowest loss over the seeds of relu; $\approx$ not shown to be worse: its 95\% interval against $^{*}$ includes zero, or needs more seeds.\par
      \end{minipage}
    \end{table}
    ");
}

#[test]
fn csv() {
    assert_snapshot!(export(&comparison(&three_arms()), Format::Csv, None), @r"
    label,ffn,d_ff,params,params_excess,flops_per_token,seeds,diverged,loss_mean,loss_sd,loss_ci95_low,loss_ci95_high,perplexity,bits_per_byte,above_floor,diff_pairs,diff_mean,diff_sd,diff_ci95_low,diff_ci95_high,diff_p_value,diff_wins,standing,published_loss,published_sd,baseline
    relu,relu,512,1311872,0,2097408,3,0,3.0226063945061976,0.02165073354038529,2.9688229908314687,3.0763897981809265,20.54476973643997,1.0901748139783403,,,,,,,,,worse,,,relu
    geglu,geglu,344,1315968,0.0031222558298371617,2105600,3,0,3.0167345780599173,0.02057292809786617,2.96562859153088,3.0678405645889546,20.42448810105021,1.0880570038613255,,3,-0.005871816446280024,0.001471096101001669,-0.009526221748387147,-0.0022174111441729013,0.020288067549841988,3,best,,,relu
    reglu,reglu,512,1574016,0.19982437310957168,2621696,1,0,3.0367742550711063,,,,20.83791689991196,1.0952847895225903,,1,-0.007222567462324303,,,,,1,tied,,,relu
    ");
}

#[test]
fn json_has_every_figure_and_the_raw_rows() {
    let comparison = comparison(&three_arms());
    let json: serde_json::Value = serde_json::from_str(&export(&comparison, Format::Json, None)).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&json), ["baseline", "arms", "runs", "notes"]);
    assert_eq!(json["baseline"], "relu");
    assert_eq!(json["runs"].as_array().unwrap().len(), 7);
    assert_eq!(json["runs"][6]["summary"]["run_id"], "reglu-2");
    assert_eq!(json["notes"][0]["level"], "warning");
    let loss = comparison.arms[1].loss.unwrap();
    assert_eq!(json["arms"][1]["loss"]["mean"].as_f64(), Some(loss.mean), "full precision survives");
    assert_snapshot!(serde_json::to_string_pretty(&json["arms"][2]).unwrap(), @r#"
    {
      "label": "reglu",
      "ffn": "reglu",
      "d_ff": 512,
      "params": {
        "total": 1574016,
        "embedding": 524288,
        "attention": 262144,
        "ffn": 528384,
        "norm": 1152
      },
      "params_excess": 0.19982437310957168,
      "flops_per_token": 2621696,
      "seeds": [
        2
      ],
      "diverged": [],
      "loss": {
        "mean": 3.0367742550711063,
        "sd": null,
        "n": 1,
        "ci95": null
      },
      "perplexity": 20.83791689991196,
      "bits_per_byte": 1.0952847895225903,
      "above_floor": null,
      "difference": {
        "estimate": {
          "mean": -0.007222567462324303,
          "sd": null,
          "n": 1,
          "ci95": null
        },
        "p_value": null,
        "wins": 1,
        "seeds_used": [
          2
        ],
        "seeds_missing": [
          0,
          1
        ]
      },
      "standing": "tied",
      "published": null
    }
    "#);
}

#[test]
fn diverged_runs_and_a_diverged_arm() {
    let seeds = |ffn: &'static str| (0..5).map(move |seed| RunMaker::new(ffn, seed));
    let runs = seeds("relu").chain(seeds("swiglu").take(4)).chain([RunMaker::new("swiglu", 4).diverged()]);
    let runs = runs.chain(seeds("selu").take(2).map(RunMaker::diverged));
    assert_snapshot!(table(&collection(runs)), @r"
    ─────────────────────────────────────────────────────────────────────────────────────────────────
     FFN       d_ff  params  seeds  diverged         val loss    ppl    bits            Δ relu  wins
                                                         (sd)          /byte             ± 95%
    ─────────────────────────────────────────────────────────────────────────────────────────────────
     relu *     512  1.312M      5         –  3.0422 (0.0315)  20.95  1.0973          baseline     –
     swiglu ≈   344  1.316M      4       1/5  3.0325 (0.0244)  20.75  1.0937  -0.0002 ± 0.0038   2/4
     selu       512  1.312M      0       2/2         diverged      –       –                 –     –
    ─────────────────────────────────────────────────────────────────────────────────────────────────
    Warning: runs diverged: swiglu (1 of 5), selu (2 of 2); means are over the runs that did not, which
      flatters the arm
    Warning: Δ is over seeds that both the arm and relu finished; without a pair: swiglu (4)
    Warning: few seeds: below 5, spreads and intervals are rough
    Losses are held-out, nats per token: mean over 4 to 5 seeds (standard deviation). Δ is the mean
      difference from relu within a seed ± half its 95% interval (Student's t); wins counts the seeds
      with a lower loss
    * lowest loss over the seeds of relu; ≈ not shown to be worse: its 95% interval against * includes
      zero, or needs more seeds
    Left out to fit the width: FLOPs/token
    ");
}

#[test]
fn a_diverged_baseline() {
    let runs = [RunMaker::new("relu", 0).diverged(), RunMaker::new("swiglu", 0), RunMaker::new("swiglu", 1)];
    assert_snapshot!(table(&collection(runs)), @r"
    ───────────────────────────────────────────────────────────────────────────────
     FFN     d_ff  params   FLOPs  seeds  diverged         val loss    ppl    bits
                           /token                              (sd)          /byte
    ───────────────────────────────────────────────────────────────────────────────
     relu     512  1.312M  2.097M      0       1/1         diverged      –       –
     swiglu   344  1.316M  2.106M      2         –  3.0136 (0.0146)  20.36  1.0869
    ───────────────────────────────────────────────────────────────────────────────
    Warning: runs diverged: relu (1 of 1); means are over the runs that did not, which flatters the arm
    Warning: no run of the baseline relu finished, so there are no differences
    Warning: few seeds: below 5, spreads and intervals are rough
    Losses are held-out, nats per token: mean over 2 seeds (standard deviation)
    ");
}

#[test]
fn unfinished_broken_and_repeated_runs() {
    let mut found = collection([
        RunMaker::new("relu", 0),
        RunMaker::new("relu", 1),
        RunMaker::new("swiglu", 0),
        RunMaker::new("swiglu", 1),
        RunMaker::new("swiglu", 0).with(|summary| summary.run_id = "copy".to_owned()),
        RunMaker::new("swiglu", 1).loss(2.5).with(|summary| summary.run_id = "again".to_owned()),
    ]);
    let problem = |dir: &str, kind| Problem { dir: dir.into(), kind };
    found.problems = vec![
        problem("runs/relu-2", ProblemKind::Unfinished),
        problem("runs/old", ProblemKind::ForeignSchema { found: 0 }),
        problem("runs/swiglu-2", ProblemKind::Unfinished),
        problem("elsewhere", ProblemKind::NoRun),
    ];
    assert_snapshot!(table(&found), @r"
    ───────────────────────────────────────────────────────────────────────────────────────────────
     FFN       d_ff  params   FLOPs  seeds         val loss    ppl    bits            Δ relu  wins
                             /token                    (sd)          /byte             ± 95%
    ───────────────────────────────────────────────────────────────────────────────────────────────
     relu *     512  1.312M  2.097M      2  3.0119 (0.0158)  20.33  1.0863          baseline     –
     swiglu ≈   344  1.316M  2.106M      2  3.0136 (0.0146)  20.36  1.0869  +0.0017 ± 0.0113   0/2
    ───────────────────────────────────────────────────────────────────────────────────────────────
    Warning: few seeds: below 5, spreads and intervals are rough
    Warning: left out 2 unfinished runs: runs/relu-2, runs/swiglu-2
    Warning: runs/copy repeats seed 0 of runs/swiglu-0 with the same result and is left out
    Warning: runs/again repeats seed 1 of runs/swiglu-1 with a DIFFERENT result and is left out
    Warning: left out: runs/old: written with layout 0 of run directories, this version reads 1
    Warning: left out: elsewhere: holds no run
    Losses are held-out, nats per token: mean over 2 seeds (standard deviation). Δ is the mean
      difference from relu within a seed ± half its 95% interval (Student's t); wins counts the seeds
      with a lower loss
    * lowest loss over the seeds of relu; ≈ not shown to be worse: its 95% interval against * includes
      zero, or needs more seeds
    ");
}

#[test]
fn different_budgets_protocols_and_settings() {
    let longer = |seed| {
        RunMaker::new("swiglu", seed).config("train.steps = 2000\noptim.beta2 = 0.003").with(|summary| {
            summary.steps = 2000;
            summary.tokens *= 2;
            summary.ffnlab = "0.2.0".to_owned();
            summary.validation.as_mut().unwrap().stride = 64;
        })
    };
    let short = |seed| RunMaker::new("relu", seed).config("train.steps = 1000\noptim.beta2 = 0.001");
    assert_snapshot!(table(&collection((0..5).map(short).chain((0..5).map(longer)))), @r"
    ───────────────────────────────────────────────────────────────────────────────────────────────
     FFN       d_ff  params   FLOPs  seeds         val loss    ppl    bits            Δ relu  wins
                             /token                    (sd)          /byte             ± 95%
    ───────────────────────────────────────────────────────────────────────────────────────────────
     relu ≈     512  1.312M  2.097M      5  3.0422 (0.0315)  20.95  1.0973          baseline     –
     swiglu *   344  1.316M  2.106M      5  3.0415 (0.0291)  20.94  1.0970  -0.0007 ± 0.0030   3/5
    ───────────────────────────────────────────────────────────────────────────────────────────────
    Warning: arms had different training budgets: 1000 steps, 2048000 tokens (relu); 2000 steps, 4096000
      tokens (swiglu)
    Warning: held-out losses were measured differently: 100000 tokens in windows of 128, stride 64
      (swiglu); 100000 tokens in windows of 128, stride 128 (relu)
    Warning: besides the FFN, arms differ in optim.beta2 (0.001, 0.003)
    Losses are held-out, nats per token: mean over 5 seeds (standard deviation). Δ is the mean
      difference from relu within a seed ± half its 95% interval (Student's t); wins counts the seeds
      with a lower loss
    * lowest loss over the seeds of relu; ≈ not shown to be worse: its 95% interval against * includes
      zero, or needs more seeds
    Runs were made by ffnlab 0.1.0, 0.2.0
    ");
}

#[test]
fn different_data_gets_no_differences_and_no_ranks() {
    let other = |seed| {
        RunMaker::new("swiglu", seed).with(|summary| {
            summary.data_fingerprint = "0ddba11".to_owned();
            summary.vocab_size = 4096;
        })
    };
    let runs = (0..5).map(|seed| RunMaker::new("relu", seed)).chain((0..5).map(other));
    assert_snapshot!(table(&collection(runs)), @r"
    ─────────────────────────────────────────────────────────────────────
     FFN     d_ff  params   FLOPs  seeds         val loss    ppl    bits
                           /token                    (sd)          /byte
    ─────────────────────────────────────────────────────────────────────
     relu     512  1.312M  2.097M      5  3.0422 (0.0315)  20.95  1.0973
     swiglu   344  1.316M  2.106M      5  3.0415 (0.0291)  20.94  1.0970
    ─────────────────────────────────────────────────────────────────────
    NOT COMPARABLE: arms were trained and measured on different data, so their losses mean different
      things: 0ddba11 with a vocabulary of 4096 (swiglu); 5eed5eed with a vocabulary of 2048 (relu)
    Losses are held-out, nats per token: mean over 5 seeds (standard deviation)
    ");
}

#[test]
fn a_sweep_in_order_of_loss() {
    let runs = [3e-4, 1e-3, 1e-2].into_iter().flat_map(|lr: f64| {
        (0..5).map(move |seed| {
            let run = RunMaker::new("swiglu", seed).config(&format!("optim.lr = {lr}"));
            run.loss(3.0 + 0.01 * (lr.log10() + 3.0).powi(2) + 0.001 * (seed as f64 * (lr * 1e4)).sin())
        })
    });
    let options = Options { baseline: Some("swiglu lr=0.0003"), order: Order::Loss, ..Options::default() };
    let comparison = Comparison::new(&collection(runs), &options).unwrap();
    assert_snapshot!(export(&comparison, Format::Table, Some(100)), @r"
    ────────────────────────────────────────────────────────────────────────────────────────────
     FFN                d_ff  params  seeds           val loss    ppl          Δ baseline  wins
                                                          (sd)                      ± 95%
    ────────────────────────────────────────────────────────────────────────────────────────────
     swiglu lr=0.001 *   344  1.316M      5  3.00003 (0.00082)  20.09  -0.00266 ± 0.00145   5/5
     swiglu lr=0.0003    344  1.316M      5  3.00268 (0.00037)  20.14            baseline     –
     swiglu lr=0.01      344  1.316M      5  3.00935 (0.00040)  20.27  +0.00667 ± 0.00065   0/5
    ────────────────────────────────────────────────────────────────────────────────────────────
    Losses are held-out, nats per token: mean over 5 seeds (standard deviation). Δ is the mean
      difference from swiglu lr=0.0003 within a seed ± half its 95% interval (Student's t); wins counts
      the seeds with a lower loss
    * lowest loss over the seeds of swiglu lr=0.0003
    Each of the 2 intervals holds at 95% by itself, not all of them together
    Left out to fit the width: FLOPs/token, bits/byte
    ");
}
