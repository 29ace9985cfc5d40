//! `weir sample-config`: every option with its default and a sentence, written from the same declarations that read it.
//!
//! `configs/weir.toml` is what this prints; a test compares them, so that the reference is always true.

use std::fmt::Write;

use clap::Args;
use weir_plugin_api::{
    filter::Filter,
    options::{OptionSpec, nearest},
};

use super::{DONE, WRONG, print};
use crate::config::{operators, plugins, registry::Registry, sections};

/// `weir sample-config`.
#[derive(Args, Debug)]
pub struct SampleConfig {
    /// Only these plugins and tables: `storage`, `windows`, `mqtt_consumer`, or `inputs.mqtt_consumer` where the name alone is ambiguous.
    plugin: Vec<String>,
}

impl SampleConfig {
    /// Runs it.
    pub fn run(self) -> u8 {
        if self.plugin.is_empty() {
            print(&full());
            return DONE;
        }
        let all = all();
        let mut out = String::new();
        for wanted in &self.plugin {
            if table(wanted, "", &mut out) {
                continue;
            }
            let found: Vec<&Sample> = all.iter().filter(|s| s.is(wanted)).collect();
            if found.is_empty() {
                let near = nearest(wanted, all.iter().map(|s| s.name).chain(TABLES));
                let help = near.map_or_else(|| "`weir plugins` lists what there is".to_owned(), |near| format!("did you mean {near}?"));
                eprintln!("error: there is no plugin or table {wanted}; {help}");
                return WRONG;
            }
            found.iter().for_each(|sample| sample.write(true, &mut out));
        }
        print(&out);
        DONE
    }
}

/// What is known of a plugin, whatever it builds.
pub struct Sample {
    /// `inputs`, `outputs` or `actions`.
    pub kind: &'static str,
    /// Its name.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// Options of its own.
    pub specs: Vec<OptionSpec>,
    /// Options common to all of its kind.
    pub common: Vec<OptionSpec>,
    /// Options Telegraf has and Weir has not.
    pub unsupported: Vec<&'static str>,
}

/// Every plugin of this build.
pub fn all() -> Vec<Sample> {
    let registry = Registry::of_this_build();
    let mut samples = Vec::new();
    let with_filters = |mut specs: Vec<OptionSpec>| {
        specs.extend(Filter::specs());
        specs
    };
    macro_rules! add {
        ($kind:literal, $entries:expr, $common:expr) => {
            for entry in $entries {
                samples.push(Sample {
                    kind: $kind,
                    name: entry.name,
                    about: entry.about,
                    specs: (entry.specs)(),
                    common: $common,
                    unsupported: entry.unsupported.to_vec(),
                });
            }
        };
    }
    add!("inputs", registry.inputs, with_filters(plugins::InputCommon::specs()));
    add!("outputs", registry.outputs, with_filters(plugins::OutputCommon::specs()));
    add!("actions", registry.actions, plugins::ActionCommon::specs());
    samples.sort_by_key(|s| (["inputs", "outputs", "actions"].iter().position(|k| *k == s.kind), s.name));
    samples
}

impl Sample {
    /// Whether `wanted` names it, with its kind or without.
    pub fn is(&self, wanted: &str) -> bool {
        wanted == self.name || wanted.split_once('.').is_some_and(|(kind, name)| kind == self.kind && name == self.name)
    }

    fn write(&self, active: bool, out: &mut String) {
        let off = if active { "" } else { "# " };
        let _ = writeln!(out, "# {}", self.about);
        let _ = writeln!(out, "{off}[[{}.{}]]", self.kind, self.name);
        // Required ones first: they are what a person has to fill in. Those that alerts call by name are required of every action.
        let own = |required: bool| self.specs.iter().filter(move |spec| spec.default.is_none() == required);
        for spec in self.common.iter().filter(|spec| spec.default.is_none()).chain(own(true)) {
            option(spec, "  ", off, out);
        }
        for spec in own(false) {
            option(spec, "  ", off, out);
        }
        out.push('\n');
    }
}

/// One option: `##` before what it means, `#` before a default that need not be written.
fn option(spec: &OptionSpec, indent: &str, off: &str, out: &mut String) {
    for text in wrap(&meaning(spec)) {
        let _ = writeln!(out, "{off}{indent}## {text}");
    }
    let _ = match spec.default.as_deref() {
        None => writeln!(out, "{off}{indent}{} = {}", spec.name, example(spec)),
        Some("") => writeln!(out, "{off}{indent}# {} = {}", spec.name, example(spec)),
        Some(default) => writeln!(out, "{off}{indent}# {} = {default}", spec.name),
    };
}

/// What an option means, and the words it can be where the sentence does not name them.
fn meaning(spec: &OptionSpec) -> String {
    let words: Vec<&str> = spec.kind.strip_prefix("one of ").map(|words| words.split_whitespace().collect()).unwrap_or_default();
    if words.iter().all(|word| spec.doc.contains(word) || spec.doc.contains(&word.replace('`', "\""))) {
        return spec.doc.to_owned();
    }
    format!("{} One of {}.", spec.doc, words.join(", "))
}

/// A value of the right type, where there is no default to show.
fn example(spec: &OptionSpec) -> String {
    let word = spec.kind.split('`').nth(1);
    match spec.kind {
        "boolean" => "false".into(),
        "integer" => "0".into(),
        "number" => "0.0".into(),
        "duration" => "\"10s\"".into(),
        "size" => "\"1MiB\"".into(),
        "array" | "tables" => "[]".into(),
        "table" => "{}".into(),
        "expression" => "\"temperature > 80\"".into(),
        _ => word.map_or_else(|| "\"\"".into(), |word| format!("\"{word}\"")),
    }
}

/// Sentences at the width of a terminal.
fn wrap(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + word.chars().count() < 100 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn heading(title: &str, out: &mut String) {
    let _ = writeln!(out, "\n# {}\n# {title}\n# {}\n", "-".repeat(78), "-".repeat(78));
}

/// A table of which there is one, with its defaults.
fn single(name: &str, specs: &[OptionSpec], out: &mut String) {
    let _ = writeln!(out, "[{name}]");
    for spec in specs {
        for text in wrap(&meaning(spec)) {
            let _ = writeln!(out, "  ## {text}");
        }
        let _ = match spec.default.as_deref() {
            Some("") | None => writeln!(out, "  # {} = {}", spec.name, example(spec)),
            Some(default) => writeln!(out, "  {} = {default}", spec.name),
        };
    }
    out.push('\n');
}

/// The tables that are no plugins.
const TABLES: [&str; 8] = ["agent", "global_tags", "time", "limits", "storage", "status", "windows", "alerts"];

/// Writes one of [`TABLES`], a list with `off` before its lines; `false` when it is none of them.
fn table(name: &str, off: &str, out: &mut String) -> bool {
    match name {
        "agent" => single(name, &sections::AgentTable::specs(), out),
        "global_tags" => out.push_str("# Tags put on everything that has none of that key.\n[global_tags]\n  # site = \"north\"\n\n"),
        "time" => single(name, &sections::TimeTable::specs(), out),
        "limits" => single(name, &sections::LimitsTable::specs(), out),
        "storage" => single(name, &sections::StorageTable::specs(), out),
        "status" => single(name, &sections::StatusTable::specs(), out),
        "windows" => list("[[windows]]", off, &[operators::WindowTable::specs(), Filter::specs()], out),
        "alerts" => list("[[alerts]]", off, &[operators::AlertTable::specs(), Filter::specs()], out),
        _ => return false,
    }
    true
}

/// A list of tables nobody has to have.
fn list(header: &str, off: &str, groups: &[Vec<OptionSpec>], out: &mut String) {
    let _ = writeln!(out, "{off}{header}");
    for specs in groups {
        for required in [true, false] {
            specs.iter().filter(|spec| spec.default.is_none() == required).for_each(|spec| option(spec, "  ", off, out));
        }
    }
    out.push('\n');
}

const INTRODUCTION: &str = "\
# Weir: every table and option of this build, with its default. Printed by `weir sample-config`.
#
# A line with `##` says what an option means, `#` before an option is its default (or shows its form, where leaving it out means
# something of its own). Of the plugins only two are switched on here, so that the file runs as it is.
#
# Durations are \"10s\", \"1m30s\", \"500ms\"; sizes are \"64MiB\", \"10kB\". In any text
#   ${VAR}               is the environment variable; unset is an error
#   ${VAR:-text}         the same, or the text when it is unset or empty
#   ${VAR:?text}         the same; when it is unset or empty an error that says the text
#   @{file:/path}        is what the file holds
#   @{credential:name}   is what systemd passed by LoadCredential=
#   $${ and @@{          are ${ and @{
# and numbers and booleans may be given so. Such values are never shown.
#
# Several files make one configuration: tables are joined key by key (a key that two set differently is an error), the rest follow
# one another.
";

/// Everything.
pub fn full() -> String {
    let mut out = INTRODUCTION.to_owned();
    heading("The agent", &mut out);
    for name in TABLES {
        if name == "windows" {
            heading("Windows and alerts", &mut out);
        }
        table(name, "# ", &mut out);
    }

    let samples = all();
    heading("What every input takes", &mut out);
    list("[[inputs.…]]", "# ", &[plugins::InputCommon::specs(), Filter::specs()], &mut out);
    heading("What every output takes", &mut out);
    list("[[outputs.…]]", "# ", &[plugins::OutputCommon::specs(), Filter::specs()], &mut out);
    heading("What every action takes", &mut out);
    list("[[actions.…]]", "# ", &[plugins::ActionCommon::specs(), plugins::EdgeCommon::specs()], &mut out);
    for (kind, title) in [("inputs", "Inputs"), ("outputs", "Outputs"), ("actions", "Actions")] {
        heading(title, &mut out);
        for sample in samples.iter().filter(|s| s.kind == kind) {
            sample.write(matches!((kind, sample.name), ("inputs", "internal") | ("outputs", "file")), &mut out);
        }
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_toml() {
        let mut specs: Vec<OptionSpec> = all().into_iter().flat_map(|s| s.specs.into_iter().chain(s.common)).collect();
        specs
            .extend(sections::AgentTable::specs().into_iter().chain(operators::WindowTable::specs()).chain(operators::AlertTable::specs()));
        for spec in specs {
            let value = spec.default.clone().filter(|d| !d.is_empty()).unwrap_or_else(|| example(&spec));
            let line = format!("{} = {value}", spec.name);
            assert!(line.parse::<toml::Table>().is_ok(), "{line}");
            assert!(!spec.doc.is_empty(), "`{}` is not documented", spec.name);
        }
    }

    #[test]
    fn plugins_are_named_with_or_without_their_kind() {
        let sample = Sample { kind: "outputs", name: "mqtt", about: "", specs: Vec::new(), common: Vec::new(), unsupported: Vec::new() };
        assert!(sample.is("mqtt") && sample.is("outputs.mqtt") && !sample.is("actions.mqtt") && !sample.is("mqt"));
    }
}
