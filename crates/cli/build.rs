//! Tells the binary which commit it is built from, as `FFNLAB_COMMIT`: the hash, with `-dirty` behind it where sources
//! differ from that commit. Empty where that is not known, as in a source archive.

use std::path::Path;
use std::process::Command;

/// What the binary is made of, from the root of the workspace.
const SOURCES: [&str; 4] = ["Cargo.toml", "Cargo.lock", "crates", "configs"];

fn main() {
    for source in SOURCES {
        println!("cargo:rerun-if-changed=../../{source}");
    }
    println!("cargo:rustc-env=FFNLAB_COMMIT={}", commit().unwrap_or_default());
}

fn commit() -> Option<String> {
    // The repository of something else that holds this source has a prefix here.
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    // The head, and the branch that it names, move without any source changing. A file that is not there (a packed branch)
    // would have cargo run this every time.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for reference in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = Path::new("../..").join(git(&["rev-parse", "--git-path", reference])?);
        if path.exists() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    let hash = git(&["rev-parse", "HEAD"])?;
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(SOURCES);
    let is_dirty = !git(&status)?.is_empty();
    Some(if is_dirty { format!("{hash}-dirty") } else { hash })
}

/// What git says at the root of the workspace; `None` where there is no git or no repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg("../..").args(arguments).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim().to_owned())
}
