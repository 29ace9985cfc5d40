//! `dedup` of an input: points that come again are counted, not taken.
//!
//! Apart from the other options of an input, because it is a table of its own that looks at the format to say when it can do nothing.

use std::time::Duration;

use weir_engine::spec::DedupSpec;
use weir_plugin_api::options::{FromNode, Item, Node, Section};

use super::context::positive_nanos;

/// Entries beyond which memory and checkpoints would no longer be those of a gateway.
const ENTRIES_MAX: u32 = 10_000_000;

weir_plugin_api::options! {
    /// `dedup`.
    struct DedupTable {
        /// How long a point is remembered, in time during which the agent runs.
        within: Duration = Duration::from_secs(3600),
        /// Points remembered at most; then the oldest is forgotten, and counted.
        entries_max: u32 = 100_000,
    }
}

/// The option.
#[derive(Clone, Debug, PartialEq)]
pub struct Dedup(DedupSpec);

impl Dedup {
    /// As the engine has it.
    pub fn spec(self) -> DedupSpec {
        self.0
    }
}

impl FromNode for Dedup {
    const KIND: &'static str = "table";

    fn from_node(node: &Node, section: &Section<'_>, key: &str) -> Result<Self, String> {
        let Item::Table(table) = &node.item else {
            return Err(format!("expected a table, this is {}", node.item.type_name()));
        };
        // What is wrong inside is reported there, and spoils the configuration by itself.
        let own = Section::new(format!("{}.{key}", section.path), table, node.place.clone(), section.diagnostics());
        let options = DedupTable::read(&own);
        let options = options.unwrap_or(DedupTable { within: Duration::from_secs(3600), entries_max: 100_000 });
        if !(1..=ENTRIES_MAX).contains(&options.entries_max) {
            own.error_at("entries_max", format!("`entries_max` is from 1 to {ENTRIES_MAX}"));
        }
        let within = positive_nanos(&own, "within", options.within);
        own.finish(&[]);
        Ok(Self(DedupSpec { within, entries_max: options.entries_max as usize }))
    }

    fn to_toml(&self) -> String {
        format!("{{ within = {}, entries_max = {} }}", Duration::from_nanos(self.0.within.unsigned_abs()).to_toml(), self.0.entries_max)
    }
}

/// Warns where no two points can have the same time, because the agent stamps them as they come.
pub fn warn_without_times(plugin: &str, section: &Section<'_>) {
    const KEY: &str = "dedup";
    if !section.has(KEY) {
        return;
    }
    if matches!(plugin, "gpio" | "internal" | "mock") {
        section.warn_at(KEY, format!("`dedup` does nothing here: no two readings of {plugin} have the same time"));
        return;
    }
    if !section.has("data_format") {
        // Line protocol, or what brings its own times.
        return;
    }
    let written = |key: &'static str| section.node(key).is_some_and(|node| !matches!(&node.item, Item::Text(text) if text.is_empty()));
    let Some(Item::Text(format)) = section.node("data_format").map(|node| &node.item) else { return };
    let needed = match format.as_str() {
        "json" if !written("json_time_key") => "set `json_time_key`, or it",
        "csv" if !written("csv_timestamp_column") => "set `csv_timestamp_column`, or it",
        "value" => "it",
        _ => return,
    };
    section.warn_at(
        KEY,
        format!("points of \"{format}\" get the time they are read at, so none is seen twice by `dedup`: {needed} does nothing"),
    );
}
