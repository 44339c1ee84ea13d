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
    ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     FFN                 params  seeds  diverged           val loss    ppl              Δ relu  wins              Δ fp32
     precision                                                 (sd)                      ± 95%                     ± 95%
    ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     relu *              1.312M      3         –  3.02261 (0.02165)  20.54            baseline     –                   –
     relu bf16           1.312M      3         –  3.02366 (0.02170)  20.57  +0.00106 ± 0.00013   0/3  +0.00106 ± 0.00013
     relu fp8_delayed    1.312M      3         –  3.04379 (0.02254)  20.98  +0.02118 ± 0.00246   0/3  +0.02118 ± 0.00246
     swiglu ≈            1.316M      3         –  3.02332 (0.01967)  20.56  +0.00071 ± 0.00493   1/3                   –
     swiglu bf16 ≈       1.316M      3         –  3.02437 (0.01972)  20.58  +0.00177 ± 0.00483   1/3  +0.00106 ± 0.00013
     swiglu fp8_delayed  1.316M      2       1/3  3.03452 (0.01577)  20.79  +0.02261 ± 0.00070   0/2  +0.02087 ± 0.01057
    ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    Δ fp32 by precision ± half its 95% interval; div k/n: k of n seeds diverged
    ─────────────────────────────────────────────────────────
     FFN        fp32                bf16         fp8_delayed
              (loss)
    ─────────────────────────────────────────────────────────
     relu    3.02261  +0.00106 ± 0.00013  +0.02118 ± 0.00246
     swiglu  3.02332  +0.00106 ± 0.00013             div 1/3
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
    assert_snapshot!(exported(Format::Table, Some(80)), @r"
    ────────────────────────────────────────────────────────────────────────────
     FFN                 seeds  diverged           val loss              Δ relu
     precision                                         (sd)               ± 95%
    ────────────────────────────────────────────────────────────────────────────
     relu *                  3         –  3.02261 (0.02165)            baseline
     relu bf16               3         –  3.02366 (0.02170)  +0.00106 ± 0.00013
     relu fp8_delayed        3         –  3.04379 (0.02254)  +0.02118 ± 0.00246
     swiglu ≈                3         –  3.02332 (0.01967)  +0.00071 ± 0.00493
     swiglu bf16 ≈           3         –  3.02437 (0.01972)  +0.00177 ± 0.00483
     swiglu fp8_delayed      2       1/3  3.03452 (0.01577)  +0.02261 ± 0.00070
    ────────────────────────────────────────────────────────────────────────────

    Δ fp32 by precision ± half its 95% interval; div k/n: k of n seeds diverged
    ─────────────────────────────────────────────────────────
     FFN        fp32                bf16         fp8_delayed
              (loss)
    ─────────────────────────────────────────────────────────
     relu    3.02261  +0.00106 ± 0.00013  +0.02118 ± 0.00246
     swiglu  3.02332  +0.00106 ± 0.00013             div 1/3
    ─────────────────────────────────────────────────────────

    Warning: runs diverged: swiglu fp8_delayed (1 of 3, at step 321); means are over
      the runs that did not, which flatters the arm
    Warning: Δ is over seeds that both the arm and relu finished; without a pair:
      swiglu fp8_delayed (2)
    Warning: Δ fp32 is over seeds that finished in both precisions; without a pair:
      swiglu fp8_delayed (2)
    Warning: few seeds: below 5, spreads and intervals are rough
    Losses are held-out, nats per token: mean over 2 to 3 seeds (standard
      deviation). Δ is the mean difference from relu within a seed ± half its 95%
      interval (Student's t); wins counts the seeds with a lower loss. Δ fp32 is the
      mean difference, within a seed too, from the arm in fp32 that equals this one
      in everything but the precision
    * lowest loss over the seeds of relu; ≈ not shown to be worse: its 95% interval
      against * includes zero, or needs more seeds
    Each of the 9 intervals holds at 95% by itself, not all of them together
    Left out to fit the width: FLOPs/token, bits/byte, d_ff, wins, params, ppl, Δ
      fp32 ± 95%
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
    | FFN precision      | d_ff | params | FLOPs/token | seeds | diverged |     val loss (sd) |   ppl | bits/byte |       Δ relu ± 95% | wins |       Δ fp32 ± 95% |
    | ------------------ | ---: | -----: | ----------: | ----: | -------: | ----------------: | ----: | --------: | -----------------: | ---: | -----------------: |
    | relu \*            |  512 | 1.312M |      2.097M |     3 |        – | 3.02261 (0.02165) | 20.54 |   1.09017 |           baseline |    – |                  – |
    | relu bf16          |  512 | 1.312M |      2.097M |     3 |        – | 3.02366 (0.02170) | 20.57 |   1.09056 | +0.00106 ± 0.00013 |  0/3 | +0.00106 ± 0.00013 |
    | relu fp8_delayed   |  512 | 1.312M |      2.097M |     3 |        – | 3.04379 (0.02254) | 20.98 |   1.09781 | +0.02118 ± 0.00246 |  0/3 | +0.02118 ± 0.00246 |
    | swiglu ≈           |  344 | 1.316M |      2.106M |     3 |        – | 3.02332 (0.01967) | 20.56 |   1.09043 | +0.00071 ± 0.00493 |  1/3 |                  – |
    | swiglu bf16 ≈      |  344 | 1.316M |      2.106M |     3 |        – | 3.02437 (0.01972) | 20.58 |   1.09081 | +0.00177 ± 0.00483 |  1/3 | +0.00106 ± 0.00013 |
    | swiglu fp8_delayed |  344 | 1.316M |      2.106M |     2 |      1/3 | 3.03452 (0.01577) | 20.79 |   1.09447 | +0.02261 ± 0.00070 |  0/2 | +0.02087 ± 0.01057 |

    Δ fp32 by precision ± half its 95% interval; div k/n: k of n seeds diverged:

    | FFN    | fp32 (loss) |               bf16 |        fp8_delayed |
    | ------ | ----------: | -----------------: | -----------------: |
    | relu   |     3.02261 | +0.00106 ± 0.00013 | +0.02118 ± 0.00246 |
    | swiglu |     3.02332 | +0.00106 ± 0.00013 |            div 1/3 |

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
        relu bf16 & 512 & 1.312M & 2.097M & 3 & -- & 3.02366 (0.02170) & 20.57 & 1.09056 & $+0.00106 \pm 0.00013$ & 0/3 & $+0.00106 \pm 0.00013$ \\
        relu fp8\_delayed & 512 & 1.312M & 2.097M & 3 & -- & 3.04379 (0.02254) & 20.98 & 1.09781 & $+0.02118 \pm 0.00246$ & 0/3 & $+0.02118 \pm 0.00246$ \\
        swiglu $\approx$ & 344 & 1.316M & 2.106M & 3 & -- & 3.02332 (0.01967) & 20.56 & 1.09043 & $+0.00071 \pm 0.00493$ & 1/3 & -- \\
        swiglu bf16 $\approx$ & 344 & 1.316M & 2.106M & 3 & -- & 3.02437 (0.01972) & 20.58 & 1.09081 & $+0.00177 \pm 0.00483$ & 1/3 & $+0.00106 \pm 0.00013$ \\
        swiglu fp8\_delayed & 344 & 1.316M & 2.106M & 2 & 1/3 & 3.03452 (0.01577) & 20.79 & 1.09447 & $+0.02261 \pm 0.00070$ & 0/2 & $+0.02087 \pm 0.01057$ \\
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
    relu bf16,relu,512,1311872,0,2097408,3,0,3.023664790895915,0.021696585914131934,2.969767483610389,3.077562098181441,20.566525757772883,1.0905565497840253,,3,0.0010583963897176456,0.000050596746640733874,0.0009327071032955216,0.0011840856761397697,0.0007609065537662374,0,worse,,,relu,bf16,3,0.0010583963897176456,0.0009327071032955216,0.0011840856761397697,
    relu fp8_delayed,relu,512,1311872,0,2097408,3,0,3.043788327759641,0.022544780180038897,2.9877839891112847,3.099792666407997,20.98458934800925,1.0978145814936362,,3,0.021181933253443603,0.0009901431613022172,0.01872228128642107,0.023641585220466135,0.0007275609386239113,0,worse,,,relu,fp8_delayed,3,0.021181933253443603,0.01872228128642107,0.023641585220466135,
    swiglu,swiglu,344,1315968,0.0031222558298371617,2105600,3,0,3.0233162241715217,0.01967163825291327,2.974449165735549,3.072183282607494,20.55935820051589,1.09043083091285,,3,0.0007098296653240688,0.001986307131334495,-0.004224430786742572,0.005644090117390709,0.5990453438626064,1,tied,,,relu,fp32,,,,,
    swiglu bf16,swiglu,344,1315968,0.0031222558298371617,2105600,3,0,3.024374620561239,0.019717665213698287,2.9753932248162234,3.073356016306255,20.581129670400415,1.090812566718535,,3,0.0017682260550417142,0.0019425160190392782,-0.003057251243532885,0.006593703353616313,0.2555878445009165,1,tied,,,relu,bf16,3,0.0010583963897176456,0.0009327071032955216,0.0011840856761397697,
    swiglu fp8_delayed,swiglu,344,1315968,0.0031222558298371617,2105600,2,1,3.034519265378753,0.015771359445787496,2.892819222741833,3.1762193080156735,20.790980552471574,1.0944714739109869,,2,0.022608084886172497,0.00007739157412464932,0.021912749180274912,0.023303420592070082,0.0015409699934300699,0,worse,,,relu,fp8_delayed,2,0.02087210668864281,0.010299154857872136,0.03144505851941348,321
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
        "mean": 3.034519265378753,
        "sd": 0.015771359445787496,
        "n": 2,
        "ci95": [
          2.892819222741833,
          3.1762193080156735
        ]
      },
      "perplexity": 20.790980552471577,
      "bits_per_byte": 1.0944714739109869,
      "above_floor": null,
      "difference": {
        "estimate": {
          "mean": 0.022608084886172497,
          "sd": 0.00007739157412464932,
          "n": 2,
          "ci95": [
            0.021912749180274912,
            0.02330342059207008
          ]
        },
        "p_value": 0.00154096999343007,
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
          "mean": 0.02087210668864281,
          "sd": 0.0011767803355807475,
          "n": 2,
          "ci95": [
            0.010299154857872136,
            0.03144505851941348
          ]
        },
        "p_value": 0.02536671989886071,
        "wins": 0,
        "seeds_used": [
          0,
          1
        ],
        "seeds_missing": [
          2
        ]
      },
      "standing": "worse",
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
    // Changed in one way for relu and in another for swiglu, and without swiglu in fp32 at the same rate.
    let changed = |ffn, key: &str| RunMaker::new(ffn, 0).precision("fp8_delayed (changed)", 0.1).config(key);
    let runs = [
        RunMaker::new("relu", 0),
        changed("relu", "precision.smooth = true"),
        RunMaker::new("swiglu", 0).config("optim.lr = 0.1"),
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
        said("No arm in fp32 equals swiglu fp8_delayed (changed) lr=none in everything but the precision"),
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
