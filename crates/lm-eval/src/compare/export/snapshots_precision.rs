//! Several precisions in every format: two FFNs, three precisions, three seeds, one run that diverged.

use insta::assert_snapshot;
use proptest::prelude::*;

use super::super::collect::Collection;
use super::super::comparison::{Comparison, Options};
use super::super::testing::{RunMaker, collection};
use super::*;

/// What a precision adds to the loss of a seed.
const EFFECTS: [(&str, f64); 2] = [("bf16", 0.001), ("fp8_delayed", 0.02)];

fn runs() -> Vec<RunMaker> {
    let full = |ffn: &'static str| (0..3).map(move |seed| RunMaker::new(ffn, seed));
    let other = |ffn: &'static str| {
        EFFECTS.into_iter().flat_map(move |(name, effect)| {
            // A little different for every FFN and seed, so that there is an interval.
            (0..3).map(move |seed| {
                let spread = 0.3 * ((ffn.len() as f64 + seed as f64) * 100.0 * effect).sin();
                RunMaker::new(ffn, seed).precision(name, effect * (1.0 + spread))
            })
        })
    };
    let mut runs: Vec<RunMaker> =
        ["relu", "swiglu"].into_iter().flat_map(|ffn| full(ffn).chain(other(ffn))).collect();
    let last = runs.pop().expect("there are eighteen");
    runs.push(last.diverged());
    runs
}

fn comparison(collection: &Collection) -> Comparison {
    Comparison::new(collection, &Options::default()).unwrap()
}

fn exported(format: Format, width: Option<usize>) -> String {
    export(&comparison(&collection(runs())), format, width)
}

#[test]
fn table() {
    assert_snapshot!(exported(Format::Table, Some(120)), @r"
    ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     FFN                   params  seeds  diverged           val loss    ppl              Δ relu  wins              Δ fp32
     precision                                                   (sd)                      ± 95%                     ± 95%
    ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     relu *                1.312M      3         –  3.02261 (0.02165)  20.54            baseline     –                   –
     relu bf16             1.312M      3         –  3.02375 (0.02168)  20.57  +0.00114 ± 0.00007   0/3  +0.00114 ± 0.00007
     relu fp8_delayed      1.312M      3         –  3.04242 (0.01721)  20.96  +0.01982 ± 0.01316   0/3  +0.01982 ± 0.01316
     swiglu ≈              1.316M      3         –  3.02332 (0.01967)  20.56  +0.00071 ± 0.00493   1/3                   –
     swiglu bf16 ≈         1.316M      3         –  3.02451 (0.01969)  20.58  +0.00190 ± 0.00488   1/3  +0.00119 ± 0.00006
     swiglu fp8_delayed ≈  1.316M      2       1/3  3.03501 (0.02107)  20.80  +0.02310 ± 0.04695   0/2  +0.02136 ± 0.05821
    ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    Δ fp32 by precision ± half its 95% interval; div k/n: k of n seeds diverged
    ─────────────────────────────────────────────────────────
     FFN        fp32                bf16         fp8_delayed
              (loss)
    ─────────────────────────────────────────────────────────
     relu    3.02261  +0.00114 ± 0.00007  +0.01982 ± 0.01316
     swiglu  3.02332  +0.00119 ± 0.00006             div 1/3
    ─────────────────────────────────────────────────────────

    Warning: runs diverged: swiglu fp8_delayed (1 of 3, at step 321); means are over the runs that did not, which flatters
      the arm
    Warning: Δ is over seeds that both the arm and relu finished; without a pair: swiglu fp8_delayed (2)
    Warning: Δ fp32 is over seeds that finished in both precisions; without a pair: swiglu fp8_delayed (2)
    Warning: few seeds: below 5, spreads and intervals are rough
    Losses are held-out, nats per token: mean over 2 to 3 seeds (standard deviation). Δ is the mean difference from relu
      within a seed ± half its 95% interval (Student's t); wins counts the seeds with a lower loss. Δ fp32 is the mean
      difference, within a seed too, from the arm in fp32 that equals this one in everything but the precision
    * lowest loss over the seeds of relu; ≈ not shown to be worse: its 95% interval against * includes zero, or needs more
      seeds
    Each of the 9 intervals holds at 95% by itself, not all of them together
    Left out to fit the width: FLOPs/token, bits/byte, d_ff
    ");
}

#[test]
fn narrow_table() {
    let text = exported(Format::Table, Some(80));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(
        text.ends_with(
            "Left out to fit the width: FLOPs/token, bits/byte, d_ff, wins, params, ppl, Δ\n  fp32 ± 95%\n"
        ),
        "{text}"
    );
    let (tables, _) = text.split_once("\n\nWarning").unwrap();
    assert_snapshot!(tables, @r"
    ──────────────────────────────────────────────────────────────────────────────
     FFN                   seeds  diverged           val loss              Δ relu
     precision                                           (sd)               ± 95%
    ──────────────────────────────────────────────────────────────────────────────
     relu *                    3         –  3.02261 (0.02165)            baseline
     relu bf16                 3         –  3.02375 (0.02168)  +0.00114 ± 0.00007
     relu fp8_delayed          3         –  3.04242 (0.01721)  +0.01982 ± 0.01316
     swiglu ≈                  3         –  3.02332 (0.01967)  +0.00071 ± 0.00493
     swiglu bf16 ≈             3         –  3.02451 (0.01969)  +0.00190 ± 0.00488
     swiglu fp8_delayed ≈      2       1/3  3.03501 (0.02107)  +0.02310 ± 0.04695
    ──────────────────────────────────────────────────────────────────────────────

    Δ fp32 by precision ± half its 95% interval; div k/n: k of n seeds diverged
    ─────────────────────────────────────────────────────────
     FFN        fp32                bf16         fp8_delayed
              (loss)
    ─────────────────────────────────────────────────────────
     relu    3.02261  +0.00114 ± 0.00007  +0.01982 ± 0.01316
     swiglu  3.02332  +0.00119 ± 0.00006             div 1/3
    ─────────────────────────────────────────────────────────
    ");
}

#[test]
fn a_matrix_that_is_too_wide_is_split() {
    let precisions = ["bf16", "fp8_delayed (changed)", "mxfp8", "nvfp4"];
    let runs = precisions.into_iter().flat_map(|name| (0..3).map(move |seed| (name, seed)));
    let runs =
        runs.map(|(name, seed)| RunMaker::new("relu", seed).precision(name, 0.01 + 0.001 * seed as f64));
    let collection = collection((0..3).map(|seed| RunMaker::new("relu", seed)).chain(runs));
    let text = export(&comparison(&collection), Format::Table, Some(60));
    let (matrix, _) = text.split_once("\n\n").unwrap().1.rsplit_once("\n\n").unwrap();
    assert!(matrix.lines().all(|line| line.chars().count() <= 60), "{matrix}");
    assert_snapshot!(matrix, @r"
    Δ fp32 by precision ± half its 95% interval
    ──────────────────────────────────────────────────
     FFN     fp32              bf16       fp8_delayed
           (loss)                           (changed)
    ──────────────────────────────────────────────────
     relu  3.0226  +0.0110 ± 0.0025  +0.0110 ± 0.0025
    ──────────────────────────────────────────────────

    ──────────────────────────────────────────
     FFN              mxfp8             nvfp4
    ──────────────────────────────────────────
     relu  +0.0110 ± 0.0025  +0.0110 ± 0.0025
    ──────────────────────────────────────────
    ");
}

#[test]
fn markdown() {
    assert_snapshot!(exported(Format::Markdown, None), @r"
    | FFN precision        | d_ff | params | FLOPs/token | seeds | diverged |     val loss (sd) |   ppl | bits/byte |       Δ relu ± 95% | wins |       Δ fp32 ± 95% |
    | -------------------- | ---: | -----: | ----------: | ----: | -------: | ----------------: | ----: | --------: | -----------------: | ---: | -----------------: |
    | relu \*              |  512 | 1.312M |      2.097M |     3 |        – | 3.02261 (0.02165) | 20.54 |   1.09017 |           baseline |    – |                  – |
    | relu bf16            |  512 | 1.312M |      2.097M |     3 |        – | 3.02375 (0.02168) | 20.57 |   1.09059 | +0.00114 ± 0.00007 |  0/3 | +0.00114 ± 0.00007 |
    | relu fp8_delayed     |  512 | 1.312M |      2.097M |     3 |        – | 3.04242 (0.01721) | 20.96 |   1.09732 | +0.01982 ± 0.01316 |  0/3 | +0.01982 ± 0.01316 |
    | swiglu ≈             |  344 | 1.316M |      2.106M |     3 |        – | 3.02332 (0.01967) | 20.56 |   1.09043 | +0.00071 ± 0.00493 |  1/3 |                  – |
    | swiglu bf16 ≈        |  344 | 1.316M |      2.106M |     3 |        – | 3.02451 (0.01969) | 20.58 |   1.09086 | +0.00190 ± 0.00488 |  1/3 | +0.00119 ± 0.00006 |
    | swiglu fp8_delayed ≈ |  344 | 1.316M |      2.106M |     2 |      1/3 | 3.03501 (0.02107) | 20.80 |   1.09465 | +0.02310 ± 0.04695 |  0/2 | +0.02136 ± 0.05821 |

    Δ fp32 by precision ± half its 95% interval; div k/n: k of n seeds diverged:

    | FFN    | fp32 (loss) |               bf16 |        fp8_delayed |
    | ------ | ----------: | -----------------: | -----------------: |
    | relu   |     3.02261 | +0.00114 ± 0.00007 | +0.01982 ± 0.01316 |
    | swiglu |     3.02332 | +0.00119 ± 0.00006 |            div 1/3 |

    - Warning: runs diverged: swiglu fp8_delayed (1 of 3, at step 321); means are over the runs that did not, which flatters the arm
    - Warning: Δ is over seeds that both the arm and relu finished; without a pair: swiglu fp8_delayed (2)
    - Warning: Δ fp32 is over seeds that finished in both precisions; without a pair: swiglu fp8_delayed (2)
    - Warning: few seeds: below 5, spreads and intervals are rough
    - Losses are held-out, nats per token: mean over 2 to 3 seeds (standard deviation). Δ is the mean difference from relu within a seed ± half its 95% interval (Student's t); wins counts the seeds with a lower loss. Δ fp32 is the mean difference, within a seed too, from the arm in fp32 that equals this one in everything but the precision
    - \* lowest loss over the seeds of relu; ≈ not shown to be worse: its 95% interval against \* includes zero, or needs more seeds
    - Each of the 9 intervals holds at 95% by itself, not all of them together
    ");
}

#[test]
fn latex() {
    assert_snapshot!(exported(Format::Latex, None), @r"
    % needs \usepackage{booktabs}
    \begin{table}
      \centering
      \begin{tabular}{lrrrrrrrrrrr}
        \toprule
        FFN precision & d\_ff & params & FLOPs/token & seeds & diverged & val loss (sd) & ppl & bits/byte & $\Delta$ relu $\pm$ 95\% & wins & $\Delta$ fp32 $\pm$ 95\% \\
        \midrule
        relu $^{*}$ & 512 & 1.312M & 2.097M & 3 & -- & 3.02261 (0.02165) & 20.54 & 1.09017 & baseline & -- & -- \\
        relu bf16 & 512 & 1.312M & 2.097M & 3 & -- & 3.02375 (0.02168) & 20.57 & 1.09059 & $+0.00114 \pm 0.00007$ & 0/3 & $+0.00114 \pm 0.00007$ \\
        relu fp8\_delayed & 512 & 1.312M & 2.097M & 3 & -- & 3.04242 (0.01721) & 20.96 & 1.09732 & $+0.01982 \pm 0.01316$ & 0/3 & $+0.01982 \pm 0.01316$ \\
        swiglu $\approx$ & 344 & 1.316M & 2.106M & 3 & -- & 3.02332 (0.01967) & 20.56 & 1.09043 & $+0.00071 \pm 0.00493$ & 1/3 & -- \\
        swiglu bf16 $\approx$ & 344 & 1.316M & 2.106M & 3 & -- & 3.02451 (0.01969) & 20.58 & 1.09086 & $+0.00190 \pm 0.00488$ & 1/3 & $+0.00119 \pm 0.00006$ \\
        swiglu fp8\_delayed $\approx$ & 344 & 1.316M & 2.106M & 2 & 1/3 & 3.03501 (0.02107) & 20.80 & 1.09465 & $+0.02310 \pm 0.04695$ & 0/2 & $+0.02136 \pm 0.05821$ \\
        \bottomrule
      \end{tabular}

      \smallskip
      \begin{minipage}{\linewidth}\footnotesize
        Warning: runs diverged: swiglu fp8\_delayed (1 of 3, at step 321); means are over the runs that did not, which flatters the arm.\par
        Warning: $\Delta$ is over seeds that both the arm and relu finished; without a pair: swiglu fp8\_delayed (2).\par
        Warning: $\Delta$ fp32 is over seeds that finished in both precisions; without a pair: swiglu fp8\_delayed (2).\par
        Warning: few seeds: below 5, spreads and intervals are rough.\par
        Losses are held-out, nats per token: mean over 2 to 3 seeds (standard deviation). $\Delta$ is the mean difference from relu within a seed $\pm$ half its 95\% interval (Student's t); wins counts the seeds with a lower loss. $\Delta$ fp32 is the mean difference, within a seed too, from the arm in fp32 that equals this one in everything but the precision.\par
        $^{*}$ lowest loss over the seeds of relu; $\approx$ not shown to be worse: its 95\% interval against $^{*}$ includes zero, or needs more seeds.\par
        Each of the 9 intervals holds at 95\% by itself, not all of them together.\par
      \end{minipage}
    \end{table}
    ");
}

#[test]
fn csv() {
    assert_snapshot!(exported(Format::Csv, None), @r"
    label,ffn,d_ff,params,params_excess,flops_per_token,seeds,diverged,loss_mean,loss_sd,loss_ci95_low,loss_ci95_high,perplexity,bits_per_byte,above_floor,diff_pairs,diff_mean,diff_sd,diff_ci95_low,diff_ci95_high,diff_p_value,diff_wins,standing,published_loss,published_sd,baseline,precision,gap_fp32_pairs,gap_fp32_mean,gap_fp32_ci95_low,gap_fp32_ci95_high,diverged_at
    relu,relu,512,1311872,0,2097408,3,0,3.0226063945061976,0.02165073354038529,2.9688229908314687,3.0763897981809265,20.54476973643997,1.0901748139783403,,,,,,,,,best,,,relu,fp32,,,,,
    relu bf16,relu,512,1311872,0,2097408,3,0,3.0237497431416283,0.021677020146102795,2.9699010399183225,3.077598446364934,20.56827300453774,1.090587189829926,,3,0.0011433486354307891,0.000026286893352509703,0.0010780483723290607,0.0012086488985325176,0.00017615101589669684,0,worse,,,relu,bf16,3,0.0011433486354307891,0.0010780483723290607,0.0012086488985325176,
    relu fp8_delayed,relu,512,1311872,0,2097408,3,0,3.0424239229416647,0.017212920209718447,2.999664658719354,3.0851831871639757,20.955977396780302,1.0973224764774714,,3,0.019817528435467135,0.00529892837211099,0.006654260634442423,0.03298079623649185,0.023012302903780257,0,worse,,,relu,fp8_delayed,3,0.019817528435467135,0.006654260634442423,0.03298079623649185,
    swiglu,swiglu,344,1315968,0.0031222558298371617,2105600,3,0,3.0233162241715217,0.01967163825291327,2.974449165735549,3.072183282607494,20.55935820051589,1.09043083091285,,3,0.0007098296653240688,0.001986307131334495,-0.004224430786742572,0.005644090117390709,0.5990453438626064,1,tied,,,relu,fp32,,,,,
    swiglu bf16,swiglu,344,1315968,0.0031222558298371617,2105600,3,0,3.024508845796675,0.019694551862975654,2.9755848667978344,3.0734328247955154,20.583892362783327,1.0908609782389165,,3,0.0019024512904772806,0.00196347721112676,-0.002975096495845075,0.006779999076799636,0.2353083154459268,1,tied,,,relu,bf16,3,0.0011926216251532118,0.0011357005299947526,0.001249542720311671,
    swiglu fp8_delayed,swiglu,344,1315968,0.0031222558298371617,2105600,2,1,3.035009262003194,0.021073856275952655,2.8456681755171824,3.2243503484892053,20.80117055909164,1.0946482028360203,,2,0.02309808151061299,0.005225105256040507,-0.023847626632580415,0.0700437896538064,0.10097658785655075,0,tied,,,relu,fp8_delayed,2,0.021362103313083303,-0.03685189236677836,0.07957609899294496,321
    ");
}

#[test]
fn json() {
    let json: serde_json::Value = serde_json::from_str(&exported(Format::Json, None)).unwrap();
    let arms = json["arms"].as_array().unwrap();
    assert!(arms[0].get("precision").is_none() && arms[0].get("gap_fp32").is_none(), "fp32 is not named");
    assert_snapshot!(serde_json::to_string_pretty(&arms[5]).unwrap(), @r#"
    {
      "label": "swiglu fp8_delayed",
      "ffn": "swiglu",
      "precision": "fp8_delayed",
      "d_ff": 344,
      "params": {
        "total": 1315968,
        "embedding": 524288,
        "attention": 262144,
        "ffn": 528384,
        "norm": 1152
      },
      "params_excess": 0.0031222558298371617,
      "flops_per_token": 2105600,
      "seeds": [
        0,
        1
      ],
      "diverged": [
        2
      ],
      "diverged_at": [
        321
      ],
      "loss": {
        "mean": 3.035009262003194,
        "sd": 0.021073856275952655,
        "n": 2,
        "ci95": [
          2.8456681755171824,
          3.2243503484892053
        ]
      },
      "perplexity": 20.80117055909164,
      "bits_per_byte": 1.0946482028360205,
      "above_floor": null,
      "difference": {
        "estimate": {
          "mean": 0.02309808151061299,
          "sd": 0.005225105256040507,
          "n": 2,
          "ci95": [
            -0.023847626632580415,
            0.0700437896538064
          ]
        },
        "p_value": 0.10097658785655075,
        "wins": 0,
        "seeds_used": [
          0,
          1
        ],
        "seeds_missing": [
          2
        ]
      },
      "gap_fp32": {
        "estimate": {
          "mean": 0.021362103313083303,
          "sd": 0.006479277165745904,
          "n": 2,
          "ci95": [
            -0.03685189236677836,
            0.07957609899294496
          ]
        },
        "p_value": 0.1344986546312659,
        "wins": 0,
        "seeds_used": [
          0,
          1
        ],
        "seeds_missing": [
          2
        ]
      },
      "standing": "tied",
      "published": null
    }
    "#);
}

#[test]
fn an_arm_that_diverged_in_every_seed_says_when() {
    let diverged = |seed| RunMaker::new("relu", seed).precision("mxfp4", 0.0).diverged();
    let runs = (0..3).map(|seed| RunMaker::new("relu", seed)).chain((0..3).map(diverged));
    assert_snapshot!(export(&comparison(&collection(runs)), Format::Table, Some(100)), @r"
    ───────────────────────────────────────────────────────────────────────────────────
     FFN         d_ff  params   FLOPs  seeds  diverged         val loss    ppl    bits
     precision                 /token                              (sd)          /byte
    ───────────────────────────────────────────────────────────────────────────────────
     relu         512  1.312M  2.097M      3         –  3.0226 (0.0217)  20.54  1.0902
     relu mxfp4   512  1.312M  2.097M      0       3/3         diverged      –       –
    ───────────────────────────────────────────────────────────────────────────────────

    Δ fp32 by precision; div k/n: k of n seeds diverged
    ───────────────────────
     FFN     fp32    mxfp4
           (loss)
    ───────────────────────
     relu  3.0226  div 3/3
    ───────────────────────

    Warning: runs diverged: relu mxfp4 (3 of 3, at steps 321, 321, 321); means are over the runs that
      did not, which flatters the arm
    Warning: few seeds: below 5, spreads and intervals are rough
    Losses are held-out, nats per token: mean over 3 seeds (standard deviation)
    ");
}

#[test]
fn nothing_to_pair_with() {
    let runs = [RunMaker::new("relu", 0).diverged(), RunMaker::new("relu", 0).precision("bf16", 0.1)];
    let comparison = comparison(&collection(runs));
    let note =
        "Δ fp32 is over seeds that finished in both precisions; without a pair: relu bf16 (no pair at all)";
    assert!(comparison.notes.iter().any(|said| said.text == note), "{:#?}", comparison.notes);
}

#[test]
fn what_a_precision_hides() {
    // Changed in one way for relu and in another for swiglu, and without swiglu in fp32 with the same decay.
    let changed = |ffn, key: &str| RunMaker::new(ffn, 0).precision("fp8_delayed (changed)", 0.1).config(key);
    let runs = [
        RunMaker::new("relu", 0),
        changed("relu", "precision.smooth = true"),
        RunMaker::new("swiglu", 0).config("optim.beta2 = 0.1"),
        changed("swiglu", "precision.margin = 2"),
    ];
    let comparison = comparison(&collection(runs));
    let said = |text: &str| comparison.notes.iter().any(|note| note.text == text);
    assert!(
        said(
            "precisions of one name are not the same in all arms: fp8_delayed (changed) (precision.margin, precision.smooth)"
        ),
        "{:#?}",
        comparison.notes
    );
    assert!(
        said("No arm in fp32 equals swiglu fp8_delayed (changed) beta2=none in everything but the precision"),
        "{:#?}",
        comparison.notes
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the order of the runs and whichever diverged, Δ fp32 is over the seeds that finished in both precisions.
    #[test]
    fn pairing_ignores_the_order_of_runs(
        (order, diverged) in
            (Just((0..18).collect::<Vec<usize>>()).prop_shuffle(), prop::collection::vec(prop::bool::weighted(0.2), 18)),
    ) {
        let runs: Vec<RunMaker> =
            runs().into_iter().zip(&diverged).map(|(run, &div)| if div { run.diverged() } else { run }).collect();
        let shuffled = comparison(&collection(order.into_iter().map(|i| runs[i].clone())));
        let given = comparison(&collection(runs));
        for format in [Format::Csv, Format::Json] {
            prop_assert_eq!(export(&shuffled, format, None), export(&given, format, None));
        }
        for arm in given.arms.iter().filter(|arm| arm.precision != "fp32") {
            let full = given.arms.iter().find(|full| full.label == arm.ffn).unwrap();
            let both: Vec<u64> = arm.seeds.iter().filter(|seed| full.seeds.contains(seed)).copied().collect();
            let used = arm.gap_fp32.as_ref().map_or_else(Vec::new, |gap| gap.seeds_used.clone());
            prop_assert_eq!(used, both);
        }
    }
}
