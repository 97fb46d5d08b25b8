//! Links between the pages of the documentation lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/NAME")
        .into()
}

/// Every Markdown page of the project.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder)
        .expect("the project's folders can be read")
        .flatten()
    {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            pages(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "md") {
            found.push(path);
        }
    }
}

/// The text without what is code: fenced blocks and `spans`.
fn prose(text: &str) -> String {
    let mut prose = String::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            for (number, part) in line.split('`').enumerate() {
                if number % 2 == 0 {
                    prose.push_str(part);
                }
            }
        }
        prose.push('\n');
    }
    prose
}

/// The targets of inline links, `[text](target)`, and of definitions, `[text]: target`.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let inline = prose
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next());
    let defined = prose.lines().filter_map(|line| {
        let (label, target) = line.strip_prefix('[')?.split_once("]: ")?;
        (!label.contains(']')).then(|| target.trim())
    });
    inline.chain(defined).map(str::to_owned).collect()
}

/// The anchors that a page's headings get: lower case, spaces to hyphens, other signs left out, numbers for repeats.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        if fenced || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let kept = heading
            .trim()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor = kept.collect::<String>().to_lowercase().replace(' ', "-");
        let free = (1..).map(|number| format!("{anchor}-{number}"));
        let mut names = std::iter::once(anchor.clone()).chain(free);
        anchors.extend(names.find(|name| !anchors.contains(name)));
    }
    anchors
}

/// What is wrong with the links of `page`.
fn dead(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).expect("a page is UTF-8");
    let mut dead = Vec::new();
    for link in links(&text) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
        let target = if file.is_empty() {
            page.to_owned()
        } else {
            page.parent().expect("a file is in a folder").join(file)
        };
        let there = match fs::read_to_string(&target) {
            Ok(other) => anchor.is_empty() || anchors(&other).contains(anchor),
            // A folder, or a picture.
            Err(_) => anchor.is_empty() && target.exists(),
        };
        if !there {
            dead.push(format!("{}: {link}", page.display()));
        }
    }
    dead
}

#[test]
fn no_link_is_dead() {
    let mut found = Vec::new();
    pages(&root(), &mut found);
    assert!(
        found.iter().any(|page| page.ends_with("ARCHITECTURE.md")),
        "{found:?}"
    );
    let dead: Vec<String> = found.iter().flat_map(|page| dead(page)).collect();
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

#[test]
fn dead_links_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.md");
    fs::write(
        folder.path().join("other.md"),
        "# Two `words`, here\n## Twice\n## Twice\n",
    )
    .unwrap();
    fs::write(
        &page,
        "# Top\n[a](other.md) [b](other.md#two-words-here) [c](#top) [d](other.md#twice-1)\n\
         [w](https://example.org/x#y) `[code](nowhere.md)`\n```\n[more](nowhere.md)\n```\n\
         [e](missing.md) [f](other.md#three) [g](#bottom)\n[h]: gone.md\n",
    )
    .unwrap();
    let dead = dead(&page);
    let ends: Vec<&str> = dead
        .iter()
        .filter_map(|line| line.split(": ").nth(1))
        .collect();
    assert_eq!(ends, ["missing.md", "other.md#three", "#bottom", "gone.md"]);
}
