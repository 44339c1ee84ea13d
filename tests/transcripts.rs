//! The command line as its users see it: every transcript under `cli/` is run and compared.

#[test]
fn transcripts() {
    // The test is a target of another folder's package, and a pattern that matches nothing would pass.
    let transcripts = ffnlab_tests::workspace().join("tests/cli/*.trycmd");
    let pattern = transcripts.to_string_lossy();
    let found = std::fs::read_dir(transcripts.parent().expect("a folder")).expect("tests/cli").count();
    assert!(found > 0, "no transcripts under {pattern}");
    let cache = std::env::temp_dir().join(format!("ffnlab-transcripts-{}", std::process::id()));
    trycmd::TestCases::new()
        .register_bin("ffnlab", ffnlab_tests::binary())
        .env("FFNLAB_CACHE", cache.to_string_lossy())
        .env("COLUMNS", "100")
        .case(&*pattern)
        .run();
    let _ = std::fs::remove_dir_all(cache);
}
