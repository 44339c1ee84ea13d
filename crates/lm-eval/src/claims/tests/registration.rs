//! Rules that were there before the runs, and rules that were not.

use std::path::Path;

use super::*;
use crate::compare::Run;

/// Runs that are said to lie in `folder`.
fn in_folder(folder: &Path, runs: Vec<RunMaker>) -> Collection {
    let moved = |run: Run| Run { dir: folder.join(run.dir.file_name().unwrap()), ..run };
    Collection { runs: collection(runs).runs.into_iter().map(moved).collect(), problems: Vec::new() }
}

#[test]
fn a_verdict_says_whether_its_rule_was_there_before_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let all = in_folder(folder.path(), runs(&[("bilinear", -0.05), ("glu", 0.0)]));
    let claim = shipped_claim("3");
    let registered = |claim: &Claim| judged(assess(claim, &all, None).unwrap().state).remove(0);
    assert_eq!(registered(&claim).registration, Some(Registration::Unregistered(10)));

    let ids: Vec<String> = all.runs.iter().map(|run| run.summary.run_id.clone()).collect();
    let mut ledger = Ledger::read(folder.path()).unwrap();
    ledger.register([&claim], &ids);
    ledger.write(folder.path()).unwrap();
    assert_eq!(registered(&claim).registration, Some(Registration::Before));
    assert!(registered(&claim).notes.is_empty(), "{:?}", registered(&claim).notes);

    let changed = Claim { hash: "another".to_owned(), ..claim.clone() };
    let found = registered(&changed);
    assert_eq!(found.registration, Some(Registration::Changed(10)));
    assert!(found.notes[0].starts_with("THE RULE WAS CHANGED after 10"), "{:?}", found.notes);

    let mut ledger = Ledger::read(folder.path()).unwrap();
    ledger.register([&changed], &ids[..4]);
    ledger.write(folder.path()).unwrap();
    assert_eq!(
        registered(&changed).registration,
        Some(Registration::Changed(6)),
        "the others keep the old rule"
    );
    std::fs::write(folder.path().join(LEDGER), "{").unwrap();
    assert!(assess(&claim, &all, None).unwrap_err().to_string().contains("not a ledger of claims"));
}
