//! Reports of sweeps that never ran, in every awkward situation.

use std::fs;
use std::path::{Path, PathBuf};

use insta::assert_snapshot;
use tempfile::TempDir;

use super::synthetic::{Sweep, append_evals, append_probes, run, write_run};
use super::*;
use crate::claims::Decision;
use crate::compare::testing::RunMaker;

const FFNS: [(&str, f64); 3] = [("relu", 0.0), ("gelu", -0.014), ("swiglu", -0.053)];

/// A folder `sweep` with runs that `make` writes.
fn sweep(make: impl FnOnce(&Path)) -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("sweep");
    fs::create_dir(&folder).unwrap();
    make(&folder);
    (root, folder)
}

fn report(folder: &Path) -> Report {
    Report::new(&[folder.to_owned()], &Options::default()).unwrap()
}

/// The report as text, with the folder called `runs`.
fn text(folder: &Path, format: Format) -> String {
    let text = render(&report(folder), format).unwrap();
    let folder = folder.to_string_lossy();
    // The page escapes more than it has to.
    text.replace(&*folder, "runs/sweep").replace(&folder.replace('/', "&#x2f;"), "runs/sweep")
}

fn three_variants(folder: &Path) {
    Sweep { ffns: &FFNS, precisions: &[("fp32", 0.0)], seeds: 3, steps: 60 }.write(folder);
}

#[test]
fn markdown_of_three_variants() {
    let (_root, folder) = sweep(three_variants);
    assert_snapshot!(text(&folder, Format::Markdown));
}

#[test]
fn the_page_of_three_variants_without_its_pictures() {
    let (_root, folder) = sweep(three_variants);
    let page = text(&folder, Format::Html);
    assert_snapshot!(without(&without(&without(&page, "svg"), "style"), "script"));
}

/// `page` with what is inside these elements left out.
fn without(page: &str, element: &str) -> String {
    let (open, close) = (format!("<{element}"), format!("</{element}>"));
    let mut parts = page.split(&open);
    let first = parts.next().unwrap_or("").to_owned();
    parts.fold(first, |kept, part| {
        kept + &format!("<{element}>…") + &close + part.split_once(&close).unwrap().1
    })
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let (_root, folder) = sweep(three_variants);
    let page = text(&folder, Format::Html);
    for foreign in ["<link rel=\"stylesheet\"", "src=\"", "url(http", "@import", "fetch("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let addresses: Vec<&str> = page.match_indices("http").map(|(at, _)| &page[at..at + 26]).collect();
    let names_only = |address: &&&str| {
        !address.starts_with("http://www.w3.org/2000/svg") && !address.starts_with("http-equiv")
    };
    assert_eq!(addresses.iter().find(names_only), None);
    assert!(page.contains("default-src 'none'"), "and the browser holds it to that");
}

#[test]
fn every_plot_is_there_once_and_names_inside_are_its_own() {
    let (_root, folder) = sweep(|folder| {
        Sweep {
            ffns: &FFNS[..2],
            precisions: &[("fp32", 0.0), ("bf16", 0.001), ("int8", 0.4)],
            seeds: 3,
            steps: 60,
        }
        .write(folder);
    });
    let report = report(&folder);
    let ids: Vec<&str> = report.figures.all().map(|figure| figure.id.as_str()).collect();
    let expected = [
        "differences",
        "differences-fp32",
        "precisions",
        "gap-0",
        "loss-log-0",
        "gap-1",
        "loss-log-1",
        "loss-0",
        "loss-time-0",
        "loss-1",
        "loss-time-1",
    ];
    assert_eq!(ids, expected);
    let page = render(&report, Format::Html).unwrap();
    let defined: Vec<&str> =
        page.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let mut unique = defined.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), defined.len(), "{defined:?}");
    for used in page.split("url(#").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(defined.contains(&used), "{used}");
    }
}

#[test]
fn names_from_configs_cannot_become_markup() {
    let (_root, folder) = sweep(|folder| {
        for (i, name) in ["<b>bold</b> & \"co\"", "plain"].into_iter().enumerate() {
            let run = RunMaker::new("relu", 0).config(&format!("tag.name = '{name}'"));
            write_run(&run, &folder.join(i.to_string()), 0, 0.0, 20);
        }
    });
    let page = text(&folder, Format::Html);
    assert!(!page.contains("<b>bold"), "{page}");
    assert!(page.contains("&lt;b&gt;bold"), "{page}");
}

#[test]
fn one_seed_gets_no_interval_anywhere() {
    let (_root, folder) = sweep(|folder| {
        Sweep { ffns: &FFNS, precisions: &[("fp32", 0.0)], seeds: 1, steps: 40 }.write(folder)
    });
    let report = report(&folder);
    let seeds = report.seeds.as_ref().unwrap();
    assert!(seeds.analysis.is_none() && seeds.differences.is_none() && seeds.resolution.is_none());
    let page = render(&report, Format::Html).unwrap();
    assert!(
        page.contains("one seed per arm") && page.contains("No intervals and no tests: relu has one seed"),
        "{page}"
    );
    assert!(!without(&page, "style").contains(" ± "), "{page}");
}

#[test]
fn a_diverged_run_is_said_and_averaged_nowhere() {
    let (_root, folder) = sweep(|folder| {
        three_variants(folder);
        let dir = folder.join("gelu-fp32-1");
        write_run(&run("gelu", "fp32", 1, 0.0).diverged(), &dir, 1, 0.0, 20);
    });
    let report = report(&folder);
    assert_eq!((report.asked.finished, report.asked.diverged), (8, 1));
    assert_eq!(report.seeds.as_ref().unwrap().left_out, ["gelu: its seeds are not those of relu"]);
    for format in [Format::Html, Format::Markdown] {
        let text = render(&report, format).unwrap();
        assert!(text.contains("runs diverged: gelu (1 of 3)") && text.contains("diverged at 321"), "{text}");
    }
}

#[test]
fn a_sweep_of_which_nothing_has_ended_is_reported_as_such() {
    let (_root, folder) = sweep(|folder| {
        three_variants(folder);
        for entry in fs::read_dir(folder).unwrap() {
            fs::remove_file(entry.unwrap().path().join("summary.json")).unwrap();
        }
    });
    let report = report(&folder);
    assert_eq!((report.asked.finished, report.asked.unfinished), (0, 9));
    for format in [Format::Html, Format::Markdown] {
        let text = render(&report, format).unwrap();
        assert!(text.contains("No run has ended yet") && text.contains("unfinished"), "{text}");
        assert!(text.contains("model.ffn.preset"), "what was asked is known: {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&render(&report, Format::Json).unwrap()).unwrap();
    assert!(json["comparison"].is_null(), "{json}");
    for format in [Format::Csv, Format::Latex] {
        assert!(render(&report, format).unwrap_err().to_string().starts_with("no run has ended"));
    }
    let options = Options { baseline: Some("relu"), ..Options::default() };
    let error = Report::new(&[folder], &options).unwrap_err().to_string();
    assert_eq!(error, "no run has ended, so there is no arm \"relu\" to compare with");
}

#[test]
fn a_folder_without_any_trace_of_a_run_is_an_error() {
    let (_root, folder) = sweep(|_| {});
    let error = Report::new(&[folder], &Options::default()).unwrap_err().to_string();
    assert!(
        error.starts_with("no run, not even an unfinished one") && error.ends_with("holds no run"),
        "{error}"
    );
}

#[test]
fn what_has_not_begun_or_not_ended_is_named() {
    let (_root, folder) = sweep(|folder| {
        three_variants(folder);
        fs::remove_dir_all(folder.join("gelu-fp32-2")).unwrap();
        fs::remove_file(folder.join("swiglu-fp32-0/summary.json")).unwrap();
    });
    let report = report(&folder);
    let asked = &report.asked;
    assert_eq!((asked.grid, asked.missing_count, asked.unfinished), (Some(9), 1, 1));
    assert_eq!(asked.missing, ["gelu seed 2"]);
    assert!(asked.sweep.is_none(), "a config of the whole grid would not make these runs");
    let page = render(&report, Format::Html).unwrap();
    assert!(
        page.contains("1 unfinished")
            && page.contains("gelu seed 2")
            && page.contains("left out 1 unfinished run")
    );
}

#[test]
fn different_data_and_budgets_are_the_first_thing_on_the_page() {
    let (_root, folder) = sweep(|folder| {
        three_variants(folder);
        for seed in 0..3 {
            let other = run("geglu", "fp32", seed, 0.0).with(|summary| {
                summary.data_fingerprint = "0ddba11".to_owned();
                summary.steps = 5;
            });
            write_run(&other, &folder.join(format!("other-{seed}")), seed, 0.0, 5);
        }
    });
    let report = report(&folder);
    let page = render(&report, Format::Html).unwrap();
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} in {page}"));
    assert!(at("arms were trained and measured on different data") < at("What was asked"));
    assert!(at("different training budgets") < at("What was asked"));
    let drawn: Vec<_> = report.figures.differences.iter().map(|figure| figure.svg.inline()).collect();
    assert!(!drawn[0].contains("geglu"), "no difference is drawn where there is none");
}

#[test]
fn verdicts_and_probes_have_their_sections_only_when_there_are_any() {
    let (_root, folder) = sweep(three_variants);
    let without = text(&folder, Format::Html);
    assert!(!without.contains("id=\"claims\"") && !without.contains("id=\"probes\""));
    for seed in 0..3 {
        append_probes(&folder.join(format!("relu-fp32-{seed}")), &[(10, 0.5), (30, 0.8), (60, 0.9)]);
        append_probes(&folder.join(format!("swiglu-fp32-{seed}")), &[(10, 0.0), (60, 0.0)]);
    }
    let mut report = report(&folder);
    assert!(report.verdicts.is_empty(), "three arms are too few for any claim: {:?}", report.verdicts);
    report.verdicts.push(Verdict {
        number: 99,
        claim: "SwiGLU beats ReLU".to_owned(),
        decision: Decision::Confirmed,
        outcome: Decision::Confirmed.name(),
        reason: "the whole interval lies where the claim says".to_owned(),
        evidence: vec!["swiglu - relu: -0.0530 nats [-0.0570, -0.0490], n = 3".to_owned()],
        rule: "Confirmed if the whole interval lies below 0.".to_owned(),
        registered: true,
        setting: Vec::new(),
        notes: Vec::new(),
    });
    let page = render(&report, Format::Html).unwrap();
    for needed in
        ["id=\"claims\"", "SwiGLU beats ReLU", ">confirmed<", "id=\"sparsity-0\"", "id=\"activations-0\""]
    {
        assert!(page.contains(needed), "{needed} in {page}");
    }
    assert!(
        !page.contains("id=\"sparsity-2\"") && page.contains("id=\"activations-2\""),
        "no zeros, no curve"
    );
    assert!(render(&report, Format::Markdown).unwrap().contains("**confirmed**: SwiGLU beats ReLU"));
}

#[test]
fn held_out_losses_on_the_way_are_drawn_where_there_are_any() {
    let (_root, folder) = sweep(three_variants);
    let ids = |report: &Report| {
        report.figures.steps.iter().map(|figure| figure.id.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids(&report(&folder)), "gap-0 loss-log-0");
    for (ffn, effect) in FFNS {
        for seed in 0..3 {
            let losses = [(20, 3.6 + effect), (40, 3.2 + effect + 0.01 * seed as f64)];
            append_evals(&folder.join(format!("{ffn}-fp32-{seed}")), &losses);
        }
    }
    let report = report(&folder);
    assert_eq!(ids(&report), "gap-0 loss-log-0 held-out-gap-0 held-out-0");
    let [gap, losses] = [2, 3].map(|i| &report.figures.steps[i]);
    let rings = |figure: &Figure| figure.svg.inline().matches("<circle").count();
    assert_eq!((rings(gap), rings(losses)), (2, 3), "the baseline has no difference");
    for part in
        ["on the first 8192 of 100\u{202f}000 held-out tokens", "rings: the loss at the end on all of them"]
    {
        assert!(losses.caption.contains(part), "{}", losses.caption);
    }
    assert!(gap.caption.contains("rings: the difference at the end"), "{}", gap.caption);
}

#[test]
fn probes_of_older_versions_keep_their_picture_of_sizes() {
    let (_root, folder) = sweep(three_variants);
    let title = || {
        let report = report(&folder);
        let found = report.figures.probes.iter().find(|figure| figure.id == "activations-0");
        found.map(|figure| figure.title.clone()).unwrap()
    };
    for seed in 0..3 {
        append_probes(&folder.join(format!("relu-fp32-{seed}")), &[(10, 0.5)]);
    }
    assert_eq!(title(), "relu: hidden activations");
    let metrics = folder.join("relu-fp32-1/metrics.jsonl");
    let text = fs::read_to_string(&metrics).unwrap();
    let older = text.replace(",\"negative_octaves\":[[-3,5]]", "");
    assert!(older.len() < text.len());
    fs::write(&metrics, older).unwrap();
    assert_eq!(title(), "relu: sizes of hidden activations");
}

#[test]
fn json_holds_what_the_page_says() {
    let (_root, folder) = sweep(three_variants);
    let json: serde_json::Value = serde_json::from_str(&text(&folder, Format::Json)).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    let expected = [
        "title",
        "paths",
        "ffnlab",
        "asked",
        "setup",
        "comparison",
        "seeds",
        "verdicts",
        "problems",
        "reproduce",
    ];
    assert_eq!(keys, expected);
    assert_eq!(json["asked"]["grid"], 9);
    assert_eq!(json["seeds"]["analysis"]["family"], 2);
    assert_eq!(json["comparison"]["arms"].as_array().unwrap().len(), 3);
}

#[test]
fn formats_are_found_by_name_and_by_file() {
    for format in Format::ALL {
        assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
    }
    let error = "docx".parse::<Format>().unwrap_err().to_string();
    assert_eq!(error, "no format of a report is called \"docx\"; there are html, markdown, latex, json, csv");
    assert_eq!(Format::of_file(Path::new("a/report.MD")), Some(Format::Markdown));
    assert_eq!(Format::of_file(Path::new("a/report")), None);
}

#[test]
fn a_large_sweep_is_reported_whole() {
    let ffns =
        ["relu", "gelu", "swish", "glu", "bilinear", "geglu", "swiglu", "reglu"].map(|ffn| (ffn, -0.01));
    let precisions = [("fp32", 0.0), ("bf16", 0.001), ("fp8_delayed", 0.003), ("mxfp4", 0.02), ("int8", 0.4)];
    let (_root, folder) =
        sweep(|folder| Sweep { ffns: &ffns, precisions: &precisions, seeds: 5, steps: 400 }.write(folder));
    let report = report(&folder);
    assert_eq!((report.asked.finished, report.asked.grid, report.asked.missing_count), (200, Some(200), 0));
    assert_eq!(report.comparison.as_ref().unwrap().arms.len(), 40);
    assert_eq!(report.figures.steps.len(), 16, "two for each variant");
    let page = render(&report, Format::Html).unwrap();
    assert!(page.len() < 3_000_000, "{} bytes", page.len());
}
