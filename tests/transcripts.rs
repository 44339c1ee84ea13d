//! The command line as its users see it: every transcript under `cli/` is run and compared.

#[test]
fn transcripts() {
    let cache = std::env::temp_dir().join(format!("ffnlab-transcripts-{}", std::process::id()));
    trycmd::TestCases::new()
        .register_bin("ffnlab", ffnlab_tests::binary())
        .env("FFNLAB_CACHE", cache.to_string_lossy())
        .env("COLUMNS", "100")
        .case("cli/*.trycmd")
        .run();
    let _ = std::fs::remove_dir_all(cache);
}
