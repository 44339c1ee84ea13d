//! Whole corpora: what is loaded is what was given, cached or not, and bad input is refused by name.

use super::*;
use crate::config::SyntheticConfig;
use crate::data::synthetic::Language;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use tempfile::TempDir;

/// A folder of files that a config can name.
struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, content)| fs::write(folder.0.path().join(name), content).unwrap());
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn config(&self, source: DataSource, train: &str, valid: Option<&str>) -> DataConfig {
        let valid = valid.iter().map(|name| self.path(name)).collect();
        DataConfig { source, train: vec![self.path(train)], valid, ..DataConfig::default() }
    }
}

fn small() -> DataConfig {
    let synthetic =
        SyntheticConfig { train_documents: 60, valid_documents: 20, ..SyntheticConfig::default() };
    DataConfig { synthetic, ..DataConfig::default() }
}

fn bpe(vocab_size: usize) -> TokenizerConfig {
    TokenizerConfig { vocab_size, ..TokenizerConfig::default() }
}

fn byte() -> TokenizerConfig {
    TokenizerConfig { kind: TokenizerKind::Byte, ..TokenizerConfig::default() }
}

fn quiet(data: &DataConfig, tokenizer: &TokenizerConfig) -> Result<Corpus> {
    load(data, tokenizer, &CacheDir::disabled(), &|_| {})
}

fn error(data: &DataConfig, tokenizer: &TokenizerConfig) -> String {
    format!("{:#}", quiet(data, tokenizer).unwrap_err())
}

fn all(stream: &TokenStream) -> Vec<u32> {
    stream.get(0..stream.len())
}

fn same(a: &Corpus, b: &Corpus) -> bool {
    all(&a.train) == all(&b.train)
        && all(&a.valid) == all(&b.valid)
        && (a.vocab_size, a.eos, a.valid_bytes, a.floor) == (b.vocab_size, b.eos, b.valid_bytes, b.floor)
        && a.tokenizer.as_ref().map(TextTokenizer::json) == b.tokenizer.as_ref().map(TextTokenizer::json)
        && a.fingerprint == b.fingerprint
}

/// The documents of a stream, which must end with end-of-text.
fn documents(corpus: &Corpus, stream: &TokenStream) -> Vec<String> {
    let ids = all(stream);
    let (last, documents) = ids.split_last().unwrap();
    assert_eq!(Some(*last), corpus.eos);
    let tokenizer = corpus.tokenizer.as_ref().unwrap();
    documents
        .split(|&id| Some(id) == corpus.eos)
        .map(|document| tokenizer.decode(document).unwrap())
        .collect()
}

#[test]
fn the_synthetic_corpus_has_the_floor_of_its_text() {
    for tokenizer in [bpe(400), byte()] {
        let corpus = quiet(&small(), &tokenizer).unwrap();
        assert_eq!(corpus.vocab_size, if tokenizer.kind == TokenizerKind::Byte { 257 } else { 400 });
        let (train, valid) = (documents(&corpus, &corpus.train), documents(&corpus, &corpus.valid));
        assert_eq!((train.len(), valid.len()), (60, 20));
        let distinct: HashSet<&String> = train.iter().chain(&valid).collect();
        assert_eq!(distinct.len(), 80, "no document is in both splits");
        let language = Language::new(&small().synthetic);
        let nll: f64 = valid.iter().map(|text| language.nll(text).unwrap()).sum();
        let floor = corpus.floor.unwrap();
        assert!((floor - nll / corpus.valid.len() as f64).abs() < 1e-9 * floor, "{floor}");
        assert_eq!(corpus.valid_bytes.unwrap(), valid.iter().map(|text| text.len() as u64).sum::<u64>());
    }
}

#[test]
fn a_cached_corpus_is_the_same_and_tells_of_no_work() {
    let folder = tempfile::tempdir().unwrap();
    let cache = CacheDir::at(folder.path().join("cache"));
    let told = RefCell::new(Vec::new());
    let load = || {
        told.borrow_mut().clear();
        load(&small(), &bpe(300), &cache, &|message| told.borrow_mut().push(message.to_owned())).unwrap()
    };
    let fresh = quiet(&small(), &bpe(300)).unwrap();
    assert!(same(&load(), &fresh));
    assert_eq!(told.borrow().len(), 4, "text, tokenizer and two streams: {told:?}");
    assert!(same(&load(), &fresh));
    assert!(told.borrow().is_empty(), "{told:?}");
    // Whatever happens to an entry, the corpus stays the same.
    let entries: Vec<_> =
        fs::read_dir(cache.path().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 3);
    for entry in &entries {
        let whole = fs::read(entry).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [&whole[..whole.len() - 1], &whole[..10], &[], &flipped] {
            fs::write(entry, damaged).unwrap();
            assert!(same(&load(), &fresh), "{}", entry.display());
            assert!(!told.borrow().is_empty());
            assert_eq!(fs::read(entry).unwrap(), whole, "the entry was made again");
        }
    }
}

#[test]
fn an_unwritable_cache_is_told_of_and_done_without() {
    let folder = Folder::new(&[("file", b"in the way")]);
    let told = RefCell::new(String::new());
    let cache = CacheDir::at(folder.path("file/cache"));
    let corpus = load(&small(), &byte(), &cache, &|message| told.borrow_mut().push_str(message)).unwrap();
    assert!(told.borrow().contains("going on without the cache"), "{told:?}");
    assert!(same(&corpus, &quiet(&small(), &byte()).unwrap()));
}

#[test]
fn concurrent_loads_share_a_cache() {
    let folder = tempfile::tempdir().unwrap();
    let cache = CacheDir::at(folder.path());
    let corpora: Vec<Corpus> = std::thread::scope(|scope| {
        let load = || load(&small(), &bpe(280), &cache, &|_| {}).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(corpora.iter().all(|corpus| same(corpus, &corpora[0])));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn text_files_become_documents() {
    let folder = Folder::new(&[
        ("a.txt", b"one\n<|endoftext|>two<|endoftext|>\n"),
        ("b.txt", "drei é".as_bytes()),
        ("v.txt", "four 漢".as_bytes()),
    ]);
    let corpus = quiet(&folder.config(DataSource::Text, "[ab].txt", Some("v.txt")), &byte()).unwrap();
    assert_eq!(documents(&corpus, &corpus.train), ["one\n", "two", "drei é"]);
    assert_eq!(documents(&corpus, &corpus.valid), ["four 漢"]);
    assert_eq!((corpus.valid_bytes, corpus.floor), (Some(8), None));

    let mut data = folder.config(DataSource::Text, "a.txt", Some("v.txt"));
    data.document_separator = "\n".to_owned();
    let corpus = quiet(&data, &byte()).unwrap();
    let ids = all(&corpus.train);
    assert_eq!(
        ids.iter().filter(|&&id| id == 256).count(),
        2 + 2,
        "one document per line; a written-out token is one too"
    );
}

#[test]
fn a_fraction_is_held_out_without_overlap() {
    let folder =
        Folder::new(&[("a.txt", b"a a|b b|c c|d d"), ("long.txt", b"first line\nsecond line\nthird line\n")]);
    let split = |name: &str, fraction| {
        let mut data = folder.config(DataSource::Text, name, None);
        (data.valid_fraction, data.document_separator) = (Some(fraction), "|".to_owned());
        quiet(&data, &byte())
            .map(|corpus| (documents(&corpus, &corpus.train), documents(&corpus, &corpus.valid)))
    };
    let strings = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
    assert_eq!(split("a.txt", 0.25).unwrap(), (strings(&["a a", "b b", "c c"]), strings(&["d d"])));
    assert_eq!(
        split("long.txt", 0.3).unwrap(),
        (strings(&["first line\nsecond line\n"]), strings(&["third line\n"]))
    );
    assert!(format!("{:#}", split("a.txt", 0.1).unwrap_err()).contains("4 documents and 12 bytes"));
}

#[test]
fn contradictory_or_missing_files_are_refused() {
    let folder = Folder::new(&[
        ("a.txt", b"text"),
        ("v.txt", b"more"),
        ("bad.txt", b"ok\n\xff"),
        ("blank.txt", b" \n"),
    ]);
    let text = |train, valid| folder.config(DataSource::Text, train, valid);
    assert!(error(&text("a.txt", None), &byte()).contains("data.valid_fraction"));
    let both = DataConfig { valid_fraction: Some(0.1), ..text("a.txt", Some("v.txt")) };
    assert!(error(&both, &byte()).contains("both set"));
    assert!(error(&DataConfig { train: vec![], ..both }, &byte()).contains("data.train is empty"));
    assert!(error(&text("a.txt", Some("a.txt")), &byte()).contains("hold the same text"));
    assert!(
        error(&text("bad.txt", Some("v.txt")), &byte())
            .contains("bad.txt is not UTF-8 text: line 2, byte offset 3")
    );
    assert!(error(&text("a.txt", Some("blank.txt")), &byte()).contains("blank.txt holds nothing but blanks"));
    assert!(error(&text("none.txt", Some("v.txt")), &byte()).contains("data.train: no file matches"));
    assert!(error(&text("a.txt", Some("v.txt")), &bpe(100)).contains("257"));
    let file = |file| TokenizerConfig { kind: TokenizerKind::File, file, ..TokenizerConfig::default() };
    assert!(error(&small(), &file(None)).contains("tokenizer.file is not set"));
    assert!(error(&small(), &file(Some(folder.path("none.json")))).contains("none.json"));
    assert!(error(&small(), &file(Some(folder.path("a.txt")))).contains("not a usable tokenizer.json"));
}

fn ids(ids: &[u16]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

#[test]
fn token_files_are_read_as_they_are() {
    let folder = Folder::new(&[
        ("1.bin", &ids(&[1, 2, 300])),
        ("2.bin", &ids(&[4])),
        ("val.bin", &ids(&[104, 105, 256])),
        ("odd.bin", b"abc"),
        ("tokenizer.json", TextTokenizer::byte().unwrap().json().as_bytes()),
    ]);
    let tokens = |train| folder.config(DataSource::Tokens, train, Some("val.bin"));
    let corpus = quiet(&tokens("[12].bin"), &bpe(301)).unwrap();
    assert_eq!((all(&corpus.train), all(&corpus.valid)), (vec![1, 2, 300, 4], vec![104, 105, 256]));
    assert_eq!((corpus.vocab_size, corpus.eos, corpus.valid_bytes, corpus.floor), (301, None, None, None));
    assert!(corpus.tokenizer.is_none());

    let given = TokenizerConfig {
        kind: TokenizerKind::File,
        file: Some(folder.path("tokenizer.json")),
        vocab_size: 9,
    };
    let corpus = quiet(&tokens("2.bin"), &given).unwrap();
    assert_eq!((corpus.vocab_size, corpus.eos, corpus.valid_bytes), (257, Some(256), Some(2)));
    assert_eq!(documents(&corpus, &corpus.valid), ["hi"]);

    let message = error(&tokens("1.bin"), &given);
    for part in
        ["1.bin: token 2 (byte offset 4) is 300", "vocabulary of 257", "largest id of the file is 300"]
    {
        assert!(message.contains(part), "{message}");
    }
    assert!(error(&tokens("odd.bin"), &bpe(300)).contains("odd.bin has 3 bytes, an odd number"));
    let without = DataConfig { valid: vec![], ..tokens("1.bin") };
    assert!(error(&without, &bpe(301)).contains("data.valid is empty"));
}

#[test]
fn the_fingerprint_follows_contents_and_settings_but_not_paths() {
    let files: &[(&str, &[u8])] = &[("a.txt", b"text"), ("b.txt", b"other"), ("v.txt", b"more")];
    let (here, there) = (Folder::new(files), Folder::new(files));
    let text = |folder: &Folder, train, valid| folder.config(DataSource::Text, train, Some(valid));
    let print = |data: &DataConfig, tokenizer: &TokenizerConfig| fingerprint(data, tokenizer).unwrap();
    assert_eq!(
        print(&text(&here, "a.txt", "v.txt"), &byte()),
        print(&text(&there, "a.txt", "v.txt"), &byte())
    );
    assert_eq!(print(&small(), &byte()), quiet(&small(), &byte()).unwrap().fingerprint);

    let synthetic = |change: fn(&mut SyntheticConfig)| {
        let mut data = small();
        change(&mut data.synthetic);
        data
    };
    let separated = DataConfig { document_separator: "|".to_owned(), ..text(&here, "a.txt", "v.txt") };
    let prints = [
        print(&text(&here, "a.txt", "v.txt"), &byte()),
        print(&text(&here, "b.txt", "v.txt"), &byte()),
        print(&text(&here, "a.txt", "b.txt"), &byte()),
        print(&text(&here, "[ab].txt", "v.txt"), &byte()),
        print(&text(&here, "v.txt", "a.txt"), &byte()),
        print(&separated, &byte()),
        print(&text(&here, "a.txt", "v.txt"), &bpe(300)),
        print(&text(&here, "a.txt", "v.txt"), &bpe(301)),
        print(&small(), &byte()),
        print(&synthetic(|s| s.language_seed += 1), &byte()),
        print(&synthetic(|s| s.train_documents += 1), &byte()),
        print(&synthetic(|s| s.max_depth += 1), &byte()),
    ];
    assert_eq!(prints.iter().collect::<HashSet<_>>().len(), prints.len());
}
