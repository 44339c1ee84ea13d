//! Every shipped config resolves, and a bogus key in any of its tables is refused at its place. (Files of claims, which hold
//! more than a config, are tested where they are read, in lm-eval.)

use std::path::{Path, PathBuf};

use ffnlab_tests::workspace;
use lm_train::config::ConfigSource;

fn shipped() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("configs/") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("claims") {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "toml") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&workspace().join("configs"), &mut found);
    found.sort();
    found
}

#[test]
fn every_shipped_config_resolves() {
    assert!(shipped().len() >= 5);
    for path in shipped() {
        let source = ConfigSource::read(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        source.resolve().unwrap_or_else(|error| panic!("{error}"));
        if let Some(grid) = source.sweep().unwrap_or_else(|error| panic!("{error}")) {
            assert!(!grid.cells().unwrap_or_else(|error| panic!("{error}")).is_empty());
        }
    }
}

#[test]
fn a_bogus_key_in_any_table_is_refused_at_its_place() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(workspace().join("configs/base.toml"), folder.path().join("base.toml")).unwrap();
    let mut tables = 0;
    for path in shipped() {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let heads = lines.iter().enumerate().filter(|(_, l)| l.starts_with('[') && !l.starts_with("[sweep"));
        let places = std::iter::once(0).chain(heads.map(|(i, _)| i + 1));
        for place in places {
            let mut edited = lines.clone();
            edited.insert(place, "bogus_key = 1");
            let file = folder.path().join("edited.toml");
            std::fs::write(&file, edited.join("\n")).unwrap();
            let error = ConfigSource::read(&file, &[]).expect_err("refused").to_string();
            assert!(error.contains(&format!("edited.toml:{}:1", place + 1)), "{}: {error}", path.display());
            assert!(error.contains("bogus_key"), "{error}");
            tables += 1;
        }
    }
    assert!(tables > 20, "only {tables} tables were tried");
}
