//! What the documents claim about plugins is what the binary has.

use std::{fs, path::Path};

use crate::support::agent::run;

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn output(arguments: &[&str]) -> String {
    String::from_utf8(run(&root(), arguments, b"").stdout).expect("text")
}

/// `UPDATE_EXPECTED=1` writes the table anew.
#[cfg(feature = "full")]
#[test]
fn the_table_of_options_is_what_the_binary_prints() {
    let path = root().join("plugins/OPTIONS.md");
    let mut expected = String::from(
        "# Plugins and their options\n\nAs `weir plugins --options` prints them; a test compares. An option that is not here is refused.\n\n```text\n",
    );
    expected.push_str(&output(&["plugins", "--options"]));
    expected.push_str("```\n");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&path, &expected).expect("written");
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), expected, "UPDATE_EXPECTED=1 writes it anew");
}

#[cfg(feature = "full")]
#[test]
fn the_readme_names_every_plugin_and_no_other() {
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    let mut kind = "";
    let listed = output(&["plugins"]);
    let mut named = Vec::new();
    for line in listed.lines() {
        match line.strip_prefix("  ") {
            None => kind = line,
            Some(row) if ["inputs", "outputs", "actions"].contains(&kind) => {
                let name = row.split_whitespace().next().expect("a name");
                named.push(format!("{kind}.{name}"));
            }
            Some(_) => {}
        }
    }
    assert!(named.len() > 15, "{listed}");
    for name in &named {
        assert!(readme.contains(&format!("| `{name}` |")), "the README lacks {name}");
    }
    let rows = readme.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next());
    for row in rows.filter(|r| ["inputs.", "outputs.", "actions."].iter().any(|k| r.starts_with(k))) {
        assert!(named.iter().any(|n| n == row), "the README has {row}, the binary has not");
    }
}

/// Both sides of a merge once stood in a table of the store's format, where nothing compiles.
#[test]
fn no_document_and_no_configuration_shows_two_sides_of_a_merge() {
    let mut folders = vec![root()];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|e| e == "md" || e == "toml") {
                let text = fs::read_to_string(&path).expect("text");
                let marked = text.lines().find(|l| ["<<<<<<< ", "||||||| ", ">>>>>>> "].iter().any(|m| l.starts_with(m)));
                assert_eq!(marked, None, "{}", path.display());
                read += 1;
            }
        }
    }
    assert!(read > 20, "{read}");
}

#[cfg(feature = "demo")]
#[test]
fn the_demo_ends_by_itself_and_keeps_its_state_where_it_is_told() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let arguments = ["demo", "--for", "8s", "--directory", "kept"];
    let first = run(directory.path(), &arguments, b"");
    let text = String::from_utf8_lossy(&first.stdout);
    assert!(first.status.success(), "{text}");
    for expected in ["boiler", "pump", "office", "cellar", "roof", "ledger balances"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let again = run(directory.path(), &arguments, b"");
    assert!(again.status.success());
    let results = fs::read_to_string(directory.path().join("kept/results.lp")).expect("results");
    let mut seen: Vec<(&str, &str)> =
        results.lines().filter_map(|l| l.split_once(' ').map(|(s, r)| (s, r.rsplit(' ').next().unwrap_or(r)))).collect();
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), all, "no result twice: {results}");
}
