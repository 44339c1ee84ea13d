//! A report as its readers see it: from the command to the page in a browser.

use std::path::Path;
use std::process::Command;

use ffnlab_tests::browser::{self, Browser, View};
use ffnlab_tests::{Sandbox, TINY};

/// A small sweep over variants, precisions and seeds, and a run that diverges.
fn sweep(sandbox: &Sandbox) {
    let grid = "[sweep]\n\"model.ffn.preset\" = [\"relu\", \"swiglu\"]\n\"precision.preset\" = [\"fp32\", \"bf16\", \"int8\"]\nseed = [0, 1]\n";
    sandbox.write("grid.toml", format!("{TINY}\n{grid}"));
    sandbox.ok(&["sweep", "grid.toml", "--out", "runs/grid", "-o", "train.probe_every=12"]);
    sandbox.write("tiny.toml", TINY);
    // As the others, which looked too: when to look is part of a config.
    let wild = [
        "-o",
        "train.probe_every=12",
        "-o",
        "optim.lr=1",
        "-o",
        "optim.weight_decay=100",
        "-o",
        "schedule.warmup_steps=0",
    ];
    sandbox.ok(&[&["train", "tiny.toml", "--out", "runs/wild"], &wild[..]].concat());
}

#[test]
fn every_format_is_written_and_named_by_the_file() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "grid.toml",
        format!("{TINY}\n[sweep]\n\"model.ffn.preset\" = [\"relu\", \"geglu\"]\nseed = [0, 1]\n"),
    );
    sandbox.ok(&["sweep", "grid.toml", "--out", "runs"]);
    let begins = [
        ("report.html", "<!doctype html>"),
        ("report.md", "# runs"),
        ("report.tex", "% needs"),
        ("report.json", "{"),
        ("report.csv", "label,ffn"),
    ];
    for (file, beginning) in begins {
        sandbox.ok(&["report", "runs", "-o", file]);
        let text = std::fs::read_to_string(sandbox.path(file)).unwrap();
        assert!(text.starts_with(beginning) && text.contains("geglu"), "{file}: {text}");
    }
    let page = std::fs::read_to_string(sandbox.path("report.html")).unwrap();
    assert_eq!(page, sandbox.ok(&["report", "runs"]), "the default is the page, on standard output");
    sandbox.ok(&["report", "runs", "--baseline", "geglu", "--plots", "plots", "-o", "other.html"]);
    let plot = std::fs::read_to_string(sandbox.path("plots/differences.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("difference from geglu"), "{plot}");
}

#[test]
fn a_sweep_rebuilt_from_a_report_has_the_same_cells() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "grid.toml",
        format!("{TINY}\n[sweep]\n\"model.ffn.preset\" = [\"relu\", \"geglu\"]\nseed = [0, 1]\n"),
    );
    sandbox.ok(&["sweep", "grid.toml", "--out", "runs"]);
    let report = sandbox.json(&["report", "runs", "--format", "json"]);
    sandbox.write("again.toml", report["reproduce"]["sweep"].as_str().expect("a config"));
    let names = |config: &str| {
        let cells = sandbox.json(&["sweep", config, "--dry-run", "--json", "--out", "runs"]);
        cells
            .as_array()
            .unwrap()
            .iter()
            .map(|cell| (cell["name"].clone(), cell["out"].clone(), cell["ended"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(names("grid.toml"), names("again.toml"), "and all of them have ended");
}

#[test]
fn what_is_wrong_with_the_paths_is_said() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    let error = sandbox.fails(1, &["report", "empty", "-o", "report.html"]);
    assert!(
        error.contains("no run, not even an unfinished one") && error.contains("empty: holds no run"),
        "{error}"
    );
    assert!(!sandbox.path("report.html").exists());
    let error = sandbox.fails(1, &["report", "nowhere"]);
    assert!(error.contains("nowhere: no such directory"), "{error}");
}

/// What sticks out of the page to the right, and labels that stick out of their picture.
const STICKS_OUT: &str = r#"(() => {
  document.querySelectorAll("details").forEach((details) => { details.open = true; });
  const width = document.documentElement.clientWidth;
  const found = [];
  if (document.documentElement.scrollWidth > width) found.push(`page: ${document.documentElement.scrollWidth} > ${width}`);
  const own = ".scroll *, pre *, svg *";
  for (const element of document.querySelectorAll("body *")) {
    const box = element.getBoundingClientRect();
    if (!element.matches(own) && box.width > 0 && (box.right > width + 0.5 || box.left < -0.5)) {
      found.push(`${element.tagName} ${element.id} ${element.className}: ${box.left} to ${box.right}`);
    }
  }
  for (const svg of document.querySelectorAll("svg")) {
    const frame = svg.viewBox.baseVal;
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBBox();
      if (box.x < -1 || box.x + box.width > frame.width + 1 || box.y < -1 || box.y + box.height > frame.height + 2) {
        found.push(`${text.textContent} in ${svg.getAttribute("aria-label")}: ${box.x} to ${box.x + box.width} of ${frame.width}`);
      }
    }
  }
  return found;
})()"#;

/// The smallest text of all pictures, in pixels of the screen.
const SMALLEST_LABEL: &str = r#"Math.min(...[...document.querySelectorAll("svg text")].map((text) => {
  const svg = text.ownerSVGElement;
  return parseFloat(text.getAttribute("font-size")) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
}))"#;

/// How bright the page is behind its text, between 0 and 255.
const PAPER: &str = r#"getComputedStyle(document.documentElement).backgroundColor.match(/\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3"#;

#[test]
fn the_page_works_in_a_browser() {
    let Some(program) = browser::find() else {
        println!("SKIPPED: no Chromium on this machine; install one or set CHROMIUM to see the page tested");
        return;
    };
    let sandbox = Sandbox::new();
    sweep(&sandbox);
    sandbox.ok(&["report", "runs", "-o", "report.html"]);
    let file = sandbox.path("report.html");
    let mut browser = Browser::start(program);
    for (name, width, dark) in
        [("light", 1280, false), ("dark", 1280, true), ("phone", 390, false), ("phone-dark", 390, true)]
    {
        browser.open(&file, View { width, height: 900, dark });
        let sticks_out = browser.evaluate(STICKS_OUT);
        assert_eq!(sticks_out, serde_json::json!([]), "{name}");
        let paper = browser.evaluate(PAPER).as_f64().unwrap();
        assert_eq!(paper < 128.0, dark, "{name}: {paper}");
        let smallest = browser.evaluate(SMALLEST_LABEL).as_f64().unwrap();
        assert!(smallest >= 9.0, "{name}: labels of {smallest} pixels");
        assert!(browser.evaluate("document.querySelectorAll('figure svg').length").as_u64().unwrap() >= 9);
        for figure in ["held-out-0", "held-out-gap-0", "sparsity-0", "activations-0"] {
            let found = browser.evaluate(&format!("document.getElementById('{figure}') !== null"));
            assert_eq!(found, true, "{name}: {figure}");
        }
        let sorted = "(() => { const heading = document.querySelector('table.sortable th'); heading.click(); return heading.ariaSort; })()";
        assert_eq!(browser.evaluate(sorted), "ascending", "{name}");
        assert_eq!(browser.complaints(), Vec::<&serde_json::Value>::new(), "{name}");
        let elsewhere: Vec<&str> = browser
            .requests()
            .into_iter()
            .filter(|url| !url.starts_with("data:") && !url.ends_with("/report.html"))
            .collect();
        assert_eq!(elsewhere, Vec::<&str>::new(), "{name}");
        keep(&format!("{name}.png"), &browser.screenshot());
    }
    let pdf = browser.pdf();
    assert!(pdf.starts_with("JVBER"), "a PDF begins with %PDF");
    keep("print.pdf", &pdf);
}

/// Keeps a picture in the folder that `$FFNLAB_SCREENSHOTS` names, for people to look at.
fn keep(name: &str, base64: &str) {
    let Some(folder) = std::env::var_os("FFNLAB_SCREENSHOTS") else { return };
    std::fs::create_dir_all(&folder).expect("a folder for screenshots");
    let encoded = Path::new(&folder).join(format!("{name}.base64"));
    std::fs::write(&encoded, base64).expect("a screenshot");
    let decoded = Command::new("base64").arg("-d").arg(&encoded).output().expect("base64 decodes");
    std::fs::write(Path::new(&folder).join(name), decoded.stdout).expect("a screenshot");
    std::fs::remove_file(encoded).expect("it was just written");
}
