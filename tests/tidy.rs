//! Rules about the tree that the compiler does not check. Each failure names the file, the line and
//! what to do instead.

use std::fs;
use std::path::{Path, PathBuf};

/// The layers, from the one that knows nothing to the one that knows all. A folder may use those
/// before it.
const LAYERS: [&str; 11] = [
    "sync",
    "id",
    "error",
    "config",
    "format",
    "fs",
    "log",
    "partition",
    "group",
    "broker",
    "client",
];

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The lines before the file's own tests, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = ["tests.rs", "/tests/", "testing.rs", "flip_tests.rs"];
        let all_tests = tests.iter().any(|name| self.path.contains(name));
        self.lines()
            .take_while(move |(_, line)| !all_tests && line.trim() != "#[cfg(test)]\nmod tests {")
            .take_while(|(_, line)| *line != "mod tests {")
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, extension: &str, into: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, extension, into);
        } else if path.extension().is_some_and(|found| found == extension) {
            let text = fs::read_to_string(&path).expect("a readable file");
            let path = path.strip_prefix(root()).expect("below the root").display().to_string();
            into.push(Source { path, text });
        }
    }
}

fn rust(folders: &[&str]) -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in folders {
        collect(&root().join(folder), "rs", &mut sources);
    }
    assert!(!sources.is_empty());
    sources
}

fn fail_on(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// The layer that a path such as `log::core` or `format` names.
fn layer(path: &str) -> Option<usize> {
    let first = path.split([':', '{', ';', ' ', ',']).next()?;
    LAYERS.iter().position(|layer| *layer == first)
}

#[test]
fn layers_point_one_way() {
    let mut found = Vec::new();
    for source in rust(&["src"]) {
        let inside = source.path.trim_start_matches("src/").trim_end_matches(".rs");
        let Some(own) = layer(&inside.replace('/', "::")) else { continue };
        for (number, line) in source.code() {
            for (at, _) in line.match_indices("crate::") {
                let Some(used) = layer(&line[at + 7..]) else { continue };
                let strangers = (LAYERS[own], LAYERS[used]) == ("fs", "format");
                if used > own || strangers {
                    let (own, used) = (LAYERS[own], LAYERS[used]);
                    found.push(format!("{}:{number}: {own} must not use {used}", source.path));
                }
            }
        }
    }
    fail_on(&found);
}

#[test]
fn unsafe_code_stays_in_fs() {
    let mut found = Vec::new();
    for source in rust(&["src", "tests", "examples"]) {
        // fork(2) is a test's own business: the library never forks.
        let exempt = ["tests/tidy.rs", "tests/it/fork.rs"].contains(&source.path.as_str());
        let allowed = source.path.starts_with("src/fs/") || exempt;
        for (number, line) in source.lines() {
            let code = line.split("//").next().unwrap_or_default();
            let has = code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
            let counting = source.path.contains("alloc");
            if has && !allowed && !counting {
                found.push(format!("{}:{number}: unsafe belongs in src/fs", source.path));
            }
        }
    }
    fail_on(&found);
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut found = Vec::new();
    for source in rust(&["src/fs"]) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            if !line.contains("unsafe {") && !line.contains("unsafe impl") {
                continue;
            }
            let above = lines[..at].iter().rev().take_while(|l| {
                let l = l.trim();
                l.starts_with("//") || l.starts_with("#[") || l.ends_with('=') || l.is_empty()
            });
            if !above.into_iter().any(|l| l.contains("SAFETY:")) {
                found.push(format!("{}:{}: no SAFETY comment above", source.path, at + 1));
            }
        }
    }
    fail_on(&found);
}

#[test]
fn every_file_begins_with_what_it_is() {
    let mut found = Vec::new();
    for source in rust(&["src", "tests", "benches", "examples", "fuzz/fuzz_targets"]) {
        let first = source.text.lines().next().unwrap_or_default();
        if !first.starts_with("//!") && !first.starts_with("#![doc") {
            found.push(format!("{}:1: begin with a `//!` header", source.path));
        }
    }
    fail_on(&found);
}

#[test]
fn lines_fit_in_a_hundred_columns() {
    let mut found = Vec::new();
    for source in rust(&["src", "tests", "benches", "examples", "fuzz/fuzz_targets"]) {
        for (number, line) in source.lines() {
            let table = line.trim_start().starts_with("//! |") || line.contains("//! [");
            let address = line.contains("http");
            if line.chars().count() > 100 && !table && !address {
                found.push(format!("{}:{number}: longer than 100 columns", source.path));
            }
        }
    }
    fail_on(&found);
}

#[test]
fn nothing_is_left_behind() {
    let words = ["dbg!(", "todo!(", "unimplemented!(", "TODO", "FIXME", "XXX", "#[ignore"];
    let mut found = Vec::new();
    for source in rust(&["src", "tests", "benches", "examples", "fuzz/fuzz_targets"]) {
        if source.path == "tests/tidy.rs" {
            continue;
        }
        for (number, line) in source.lines() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                found.push(format!("{}:{number}: {word} is left behind", source.path));
            }
        }
    }
    fail_on(&found);
}

#[test]
fn nothing_is_printed_by_the_library() {
    let mut found = Vec::new();
    for source in rust(&["src"]) {
        if source.path.starts_with("src/bin/") {
            continue;
        }
        for (number, line) in source.code() {
            let code = line.trim_start();
            let prints = ["println!(", "eprintln!(", "print!(", "eprint!("];
            if !code.starts_with("//") && prints.iter().any(|print| code.contains(print)) {
                found.push(format!("{}:{number}: the library prints nothing", source.path));
            }
        }
    }
    fail_on(&found);
}

#[test]
fn sleeping_is_not_synchronising() {
    let mut found = Vec::new();
    for source in rust(&["src", "tests"]) {
        // The command line has a timer of its own, which synchronises nothing.
        let exempt = source.path == "tests/tidy.rs" || source.path.starts_with("src/bin/");
        for (number, line) in source.lines() {
            if line.contains("thread::sleep") && !exempt {
                found.push(format!("{}:{number}: wait for the event itself", source.path));
            }
        }
    }
    fail_on(&found);
}

#[test]
fn bytes_from_disk_cannot_panic() {
    let narrowing = [" as u8", " as u16", " as u32", " as usize", " as i32"];
    let mut found = Vec::new();
    for source in rust(&["src/format"]) {
        for (number, line) in source.code() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains(".unwrap()") || code.contains("panic!(") {
                found.push(format!("{}:{number}: return an error", source.path));
            }
            // An enum's own number, and the one place that widens, are checked where they are.
            let constant = ["const ", "[u8; ", "self as ", "codec as u16"];
            let constant = constant.iter().any(|allowed| code.contains(allowed))
                || (source.path == "src/format/bytes.rs" && code.contains("bytes as usize"));
            let narrows = narrowing.iter().any(|n| {
                code.match_indices(n).any(|(at, _)| {
                    let after = code[at + n.len()..].chars().next();
                    after.is_none_or(|c| !c.is_alphanumeric())
                })
            });
            if narrows && !constant {
                found.push(format!("{}:{number}: convert with a check", source.path));
            }
        }
    }
    fail_on(&found);
}

#[test]
fn the_readme_shows_the_example_that_is_tested() {
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    let library = fs::read_to_string(root().join("src/lib.rs")).expect("a library");
    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next());
    let tested: String = library
        .split("//! ```\n")
        .nth(1)
        .unwrap_or_default()
        .lines()
        .map(|line| line.trim_start_matches("//!").strip_prefix(' ').unwrap_or_default())
        .filter(|line| !line.starts_with("# ") && *line != "#")
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(shown, Some(tested.as_str()), "README.md and src/lib.rs show different examples");
}

#[test]
fn nothing_speaks_of_how_it_was_made() {
    let mut files = rust(&["src", "tests", "benches", "examples", "fuzz/fuzz_targets"]);
    for (folder, extension) in [("docs", "md"), ("", "md"), ("scripts", "sh"), ("tests", "sh")] {
        let mut more = Vec::new();
        if folder.is_empty() {
            for entry in fs::read_dir(root()).expect("the root").flatten() {
                if entry.path().extension().is_some_and(|found| found == extension) {
                    let text = fs::read_to_string(entry.path()).expect("a readable file");
                    more.push(Source { path: entry.file_name().display().to_string(), text });
                }
            }
        } else {
            collect(&root().join(folder), extension, &mut more);
        }
        files.extend(more);
    }
    let words = [concat!("/wo", "rk/"), concat!("../sha", "red"), concat!("/ro", "ot/")];
    let mut found = Vec::new();
    for source in &files {
        for (number, line) in source.lines() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                found.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    fail_on(&found);
}
