//! `[[inputs.…]]`, `[[outputs.…]]` and `[[actions.…]]`: the options common to all of a sort, then the plugin's own.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use weir_engine::spec::{DedupSpec, InputSpec, LevelSpec, OutputSpec};
use weir_plugin_api::{
    collector::Shape,
    filter::Filter,
    options::{Item, Place, Section, nearest},
    plugin::{ActionEntry, AnyAction, AnyInput, BuildContext, Entry, InputEntry, OutputEntry},
};

use super::{
    context::{Context, Names, check_name, nanos, positive_nanos},
    dedup::{self, Dedup},
    merge::{Merged, Plugin},
    operators::ActionNames,
    sections::{Agent, tags_of, warn_buffer_limit},
    telegraf,
    types::{ConfiguredAction, ConfiguredInput, ConfiguredOutput},
    warnings,
};

weir_plugin_api::options! {
    /// What every input takes.
    pub struct InputCommon {
        /// A name of its own, for logs, counters and state. Absent: the plugin's name, numbered from the second on.
        alias: Option<String> = None,
        /// Polled inputs: how often, instead of the agent's.
        interval: Option<Duration> = None,
        /// Polled inputs: random delay before each gather, instead of the agent's.
        collection_jitter: Option<Duration> = None,
        /// Polled inputs: fixed shift of the gathers, instead of the agent's.
        collection_offset: Option<Duration> = None,
        /// Replaces the measurement.
        name_override: Option<String> = None,
        /// Precedes the measurement.
        name_prefix: String = String::new(),
        /// Follows the measurement.
        name_suffix: String = String::new(),
        /// Tags set on every point that has none of that key.
        tags: BTreeMap<String, String> = BTreeMap::new(),
        /// Points that come again are counted, not taken: the same series, time and values as one recorded up to `within` ago, as in
        /// { within = "1h", entries_max = 100000 }. Points without a time of their own are never the same. Absent: none is left out.
        dedup: Option<Dedup> = None,
    }
}

weir_plugin_api::options! {
    /// What every output takes.
    pub struct OutputCommon {
        /// A name of its own: what was delivered is remembered under it. Absent: the plugin's name, numbered from the second on.
        alias: Option<String> = None,
        /// Points per write, instead of the agent's.
        metric_batch_size: Option<usize> = None,
        /// Points that may wait, instead of the agent's.
        metric_buffer_limit: Option<u64> = None,
        /// How long points may wait for a batch to fill, instead of the agent's.
        flush_interval: Option<Duration> = None,
        /// Random addition to it, instead of the agent's.
        flush_jitter: Option<Duration> = None,
        /// Replaces the measurement.
        name_override: Option<String> = None,
        /// Precedes the measurement.
        name_prefix: String = String::new(),
        /// Follows the measurement.
        name_suffix: String = String::new(),
        /// Takes late points too, as they came and with a field `lag`.
        late: bool = false,
    }
}

weir_plugin_api::options! {
    /// What every action takes.
    pub struct ActionCommon {
        /// The name alerts call it by.
        alias: String,
    }
}

weir_plugin_api::options! {
    /// What every action takes that does something once.
    pub struct EdgeCommon {
        /// A transition older than this is counted, not told. "0s": never.
        expires_after: Duration = Duration::from_secs(3600),
    }
}

/// Options common to all inputs that Telegraf has and Weir has not.
pub const INPUT_UNSUPPORTED: [&str; 8] = [
    "precision",
    "time_source",
    "log_level",
    "startup_error_behavior",
    "metricpass",
    "tagpass_separator",
    "gather_timeout",
    "always_include_local_tags",
];
/// The same for outputs.
pub const OUTPUT_UNSUPPORTED: [&str; 5] = ["log_level", "startup_error_behavior", "metricpass", "buffer_strategy", "buffer_directory"];

/// Inputs, built.
pub struct Inputs {
    /// As the engine knows them.
    pub specs: Vec<InputSpec>,
    /// Built.
    pub built: Vec<ConfiguredInput>,
}

/// Outputs and actions, built.
#[derive(Default)]
pub struct Outputs {
    /// Outputs, then edge actions, as the engine knows them.
    pub specs: Vec<OutputSpec>,
    /// Level actions, as the engine knows them.
    pub levels: Vec<LevelSpec>,
    /// Outputs.
    pub outputs: Vec<ConfiguredOutput>,
    /// Actions.
    pub actions: Vec<ConfiguredAction>,
    /// Actions by alias.
    pub names: ActionNames,
}

/// What building needs beside the options.
pub struct Settings<'a> {
    /// `[agent]`.
    pub agent: &'a Agent,
    /// `[time] partition`.
    pub partition: &'a [String],
    /// `[limits] series_max`.
    pub series_max: usize,
    /// Where state lives.
    pub directory: PathBuf,
}

/// Reads and builds every input.
pub fn inputs(merged: &Merged, settings: &Settings<'_>, claims: &mut Claims, context: &Context<'_>) -> Inputs {
    let names = named(&merged.inputs, "an input named", context);
    let mut inputs = Inputs { specs: Vec::new(), built: Vec::new() };
    for (plugin, name) in merged.inputs.iter().zip(names) {
        let path = format!("inputs.{}", plugin.name);
        let Some(entry) = find(&context.registry.inputs, "inputs", plugin, context) else { continue };
        let section = Section::new(path.as_str(), &plugin.table, plugin.place.clone(), &context.diagnostics);
        if let Some((input, dedup)) = input(&section, entry, name, settings, context) {
            claims.take(&input.built.claims, &path, &plugin.place, context);
            inputs.specs.push(InputSpec { name: input.name.clone(), window_messages: window_messages(&section, entry), dedup });
            inputs.built.push(input);
        }
        warnings::input(entry.name, &section);
        dedup::warn_without_times(entry.name, &section);
        section.finish(&unsupported(entry.unsupported, &INPUT_UNSUPPORTED));
    }
    inputs
}

fn input(
    section: &Section<'_>,
    entry: &'static InputEntry,
    name: String,
    settings: &Settings<'_>,
    context: &Context<'_>,
) -> Option<(ConfiguredInput, Option<DedupSpec>)> {
    let filter = Filter::read(section);
    let tags = match section.node("tags").map(|node| &node.item) {
        Some(Item::Table(table)) => tags_of(table, &format!("{}.tags", section.path), context),
        Some(_) => {
            section.error_help("tags", "`tags` is a table", "write it as { key = \"value\" }");
            Vec::new()
        }
        None => Vec::new(),
    };
    let common = InputCommon {
        alias: section.get("alias"),
        interval: section.get("interval"),
        collection_jitter: section.get("collection_jitter"),
        collection_offset: section.get("collection_offset"),
        name_override: section.get("name_override"),
        name_prefix: section.get("name_prefix").unwrap_or_default(),
        name_suffix: section.get("name_suffix").unwrap_or_default(),
        tags: BTreeMap::new(),
        dedup: section.get("dedup"),
    };
    let agent = &settings.agent.table;
    let interval = common.interval.unwrap_or(agent.interval);
    positive_nanos(section, "interval", interval);
    let mut all_tags = tags;
    for (key, value) in &settings.agent.global_tags {
        if all_tags.iter().all(|(known, _)| known != key) {
            all_tags.push((key.clone(), value.clone()));
        }
    }
    let shape = Shape {
        input: name.clone(),
        plugin: entry.name.to_owned(),
        name_override: common.name_override.filter(|name| !name.is_empty()),
        name_prefix: common.name_prefix,
        name_suffix: common.name_suffix,
        tags: all_tags,
        filter,
        partition: settings.partition.to_vec(),
        series_max: settings.series_max,
    };
    for (key, duration) in [("collection_jitter", common.collection_jitter), ("collection_offset", common.collection_offset)] {
        nanos(section, key, duration.unwrap_or_default());
    }
    let built = (entry.build)(section, &build_context(&name, interval, settings, context))?;
    if matches!(built.input, AnyInput::Streaming(_)) {
        for key in ["interval", "collection_jitter", "collection_offset"].into_iter().filter(|key| section.has(key)) {
            section.warn_at(key, format!("`{key}` does nothing here: this input is not asked, it tells"));
        }
    }
    let configured = ConfiguredInput {
        name,
        plugin: entry.name,
        shape,
        interval,
        jitter: common.collection_jitter.unwrap_or(agent.collection_jitter),
        offset: common.collection_offset.unwrap_or(agent.collection_offset),
        built,
    };
    Some((configured, common.dedup.map(Dedup::spec)))
}

fn build_context(name: &str, interval: Duration, settings: &Settings<'_>, context: &Context<'_>) -> BuildContext {
    BuildContext { name: name.to_owned(), interval, internal: context.environment.internal(), directory: settings.directory.clone() }
}

/// Unacknowledged messages the input's source allows: Telegraf's name for it wherever it is used.
fn window_messages(section: &Section<'_>, entry: &InputEntry) -> u32 {
    const KEY: &str = "max_undelivered_messages";
    let Some(spec) = (entry.specs)().into_iter().find(|spec| spec.name == KEY) else { return 0 };
    let default = spec.default.and_then(|text| text.parse().ok()).unwrap_or(0);
    match section.node(KEY).map(|node| &node.item) {
        Some(Item::Int(count)) => u32::try_from(*count).unwrap_or(default),
        Some(Item::Text(count)) => count.trim().parse().unwrap_or(default),
        _ => default,
    }
}

/// What plugins must have to themselves: who has it and where that is written.
#[derive(Default)]
pub struct Claims(Vec<(String, String, Place)>);

impl Claims {
    /// Notes what a plugin takes, or says who has it.
    pub fn take(&mut self, claims: &[String], plugin: &str, place: &Place, context: &Context<'_>) {
        for claim in claims {
            match self.0.iter().find(|(known, _, _)| overlap(known, claim)) {
                Some((_, owner, before)) => {
                    let what = claim.split_once(':').map_or(claim.as_str(), |c| c.1);
                    let message = format!("{what} is taken by the {owner} at {}", context.name(before));
                    let help = "only one can have it: remove one of them, or change its address";
                    context.error(place.clone(), message, Some(help.into()));
                }
                None => self.0.push((claim.clone(), plugin.to_owned(), place.clone())),
            }
        }
    }
}

/// Whether two claims exclude each other: the same, or one port on every address and on one of them.
fn overlap(a: &str, b: &str) -> bool {
    let parts = |claim: &str| -> Option<(String, String, String)> {
        let (kind, address) = claim.split_once(':')?;
        let (host, port) = address.rsplit_once(':')?;
        matches!(kind, "tcp" | "udp").then(|| (kind.to_owned(), host.to_owned(), port.to_owned()))
    };
    let everywhere = |host: &str| matches!(host, "" | "0.0.0.0" | "[::]" | "*");
    a == b
        || match (parts(a), parts(b)) {
            (Some(a), Some(b)) => a.0 == b.0 && a.2 == b.2 && a.2 != "0" && (everywhere(&a.1) || everywhere(&b.1)),
            _ => false,
        }
}

/// Reads and builds every output and action.
pub fn outputs(merged: &Merged, settings: &Settings<'_>, claims: &mut Claims, context: &Context<'_>) -> Outputs {
    let mut all = Outputs::default();
    // Outputs and edge actions keep cursors, so their names share one space.
    let plugins: Vec<&Plugin> = merged.outputs.iter().chain(&merged.actions).collect();
    let names = named(plugins.iter().copied(), "an output or action named", context);
    let (for_outputs, for_actions) = names.split_at(merged.outputs.len());
    for (plugin, name) in merged.outputs.iter().zip(for_outputs) {
        let Some(entry) = find(&context.registry.outputs, "outputs", plugin, context) else { continue };
        let section = Section::new(format!("outputs.{}", plugin.name), &plugin.table, plugin.place.clone(), &context.diagnostics);
        if let Some((spec, output)) = output(&section, entry, name.clone(), settings, context) {
            claims.take(&output.output.claims(), &section.path, &plugin.place, context);
            all.specs.push(spec);
            all.outputs.push(output);
        }
        section.finish(&unsupported(entry.unsupported, &OUTPUT_UNSUPPORTED));
    }
    for (plugin, name) in merged.actions.iter().zip(for_actions) {
        let built = find(&context.registry.actions, "actions", plugin, context)
            .and_then(|entry| action(plugin, entry, name.clone(), settings, (&mut all, claims), context));
        if built.is_none() {
            all.names.failed.push(name.clone());
        }
    }
    if all.specs.len() > 64 {
        let place = merged.actions.last().or(merged.outputs.last()).map(|p| p.place.clone()).unwrap_or_default();
        context.error(place, format!("there are {} outputs and actions, 64 is the most", all.specs.len()), None);
    }
    all
}

fn output(
    section: &Section<'_>,
    entry: &'static OutputEntry,
    name: String,
    settings: &Settings<'_>,
    context: &Context<'_>,
) -> Option<(OutputSpec, ConfiguredOutput)> {
    let filter = Filter::read(section);
    let common = OutputCommon::read(section)?;
    if common.metric_batch_size == Some(0) {
        section.error_at("metric_batch_size", "`metric_batch_size` can't be 0");
    }
    if let Some(points @ 1..) = common.metric_buffer_limit {
        warn_buffer_limit(section, points);
    }
    let agent = &settings.agent.table;
    let flush_interval = common.flush_interval.unwrap_or(agent.flush_interval);
    nanos(section, "flush_interval", flush_interval);
    nanos(section, "flush_jitter", common.flush_jitter.unwrap_or_default());
    let output = (entry.build)(section, &build_context(&name, flush_interval, settings, context))?;
    let preferred = if settings.agent.batch_is_default { output.preferred_batch() } else { 0 };
    let batch = common.metric_batch_size.unwrap_or(if preferred > 0 { preferred } else { agent.metric_batch_size });
    let spec = OutputSpec {
        name: name.clone(),
        filter: filter.clone(),
        alerts: true,
        results: true,
        late: common.late,
        edge: false,
        waiting_points_max: common.metric_buffer_limit.unwrap_or(agent.metric_buffer_limit),
        expires_after: 0,
    };
    let configured = ConfiguredOutput {
        name,
        plugin: entry.name,
        filter,
        name_override: common.name_override.filter(|name| !name.is_empty()),
        name_prefix: common.name_prefix,
        name_suffix: common.name_suffix,
        batch,
        flush_interval,
        flush_jitter: common.flush_jitter.unwrap_or(agent.flush_jitter),
        output,
    };
    Some((spec, configured))
}

fn action(
    plugin: &Plugin,
    entry: &'static ActionEntry,
    name: String,
    settings: &Settings<'_>,
    (all, claims): (&mut Outputs, &mut Claims),
    context: &Context<'_>,
) -> Option<()> {
    let section = Section::new(format!("actions.{}", plugin.name), &plugin.table, plugin.place.clone(), &context.diagnostics);
    let common = ActionCommon::read(&section);
    let action = (entry.build)(&section, &build_context(&name, settings.agent.table.interval, settings, context));
    match &action {
        Some(AnyAction::Edge(action)) => {
            let edge = EdgeCommon::read(&section)?;
            claims.take(&action.claims(), &section.path, &plugin.place, context);
            let expires_after = nanos(&section, "expires_after", edge.expires_after);
            all.names.edge.insert(name.clone(), all.specs.len());
            all.specs.push(OutputSpec { name: name.clone(), alerts: true, edge: true, expires_after, ..OutputSpec::default() });
        }
        Some(AnyAction::Level(level)) => {
            claims.take(&level.claims(), &section.path, &plugin.place, context);
            all.names.level.insert(name.clone(), all.levels.len());
            all.levels.push(LevelSpec { name: name.clone(), at_once: level.at_once() });
        }
        // Whether it would have been an option is not known, and there is an error already.
        None => {
            section.node("expires_after");
        }
    }
    section.finish(entry.unsupported);
    common?;
    all.actions.push(ConfiguredAction { name, plugin: entry.name, action: action? });
    Some(())
}

/// The names of plugins in order: aliases first, so that a number never takes somebody's alias.
fn named<'p>(plugins: impl IntoIterator<Item = &'p Plugin>, kind: &str, context: &Context<'_>) -> Vec<String> {
    let plugins: Vec<&Plugin> = plugins.into_iter().collect();
    let names = Names::default();
    let alias = |plugin: &Plugin| match plugin.table.get("alias") {
        Some(node) => match &node.item {
            Item::Text(text) if !text.is_empty() => Some((text.clone(), node.place.clone())),
            _ => None,
        },
        None => None,
    };
    for plugin in &plugins {
        if let Some((alias, place)) = alias(plugin) {
            let section = Section::new(plugin.name.as_str(), &plugin.table, plugin.place.clone(), &context.diagnostics);
            check_name(&section, "alias", &alias);
            names.take(kind, &alias, &place, context);
        }
    }
    plugins.iter().map(|plugin| alias(plugin).map_or_else(|| names.number(&plugin.name, &plugin.place), |(alias, _)| alias)).collect()
}

fn unsupported(of_plugin: &[&'static str], common: &[&'static str]) -> Vec<&'static str> {
    of_plugin.iter().chain(common).copied().collect()
}

fn find<T>(entries: &[&'static Entry<T>], kind: &str, plugin: &Plugin, context: &Context<'_>) -> Option<&'static Entry<T>> {
    let name = plugin.name.as_str();
    if let Some(entry) = entries.iter().find(|entry| entry.name == name) {
        return Some(entry);
    }
    let elsewhere = ["inputs", "outputs", "actions"].into_iter().find(|other| *other != kind && context.registry.has(other, name));
    let near = nearest(name, entries.iter().map(|entry| entry.name));
    let (message, help) = if OPTIONAL.contains(&(kind, name)) {
        (format!("this build of weir has no {kind}.{name}"), Some("build it with `--features full`".to_owned()))
    } else if telegraf::has(kind, name) {
        let help = telegraf::instead(kind, name).unwrap_or("`weir plugins` lists what there is");
        (format!("Telegraf has {kind}.{name}, Weir does not support it"), Some(help.to_owned()))
    } else {
        let help = match (near, elsewhere) {
            (Some(near), _) => format!("did you mean `{kind}.{near}`?"),
            (None, Some(other)) => format!("did you mean `{other}.{name}`?"),
            (None, None) => "`weir plugins` lists what there is".to_owned(),
        };
        (format!("there is no plugin {kind}.{name}"), Some(help))
    };
    context.error(plugin.place.clone(), message, help);
    None
}

/// Plugins of Weir that a small build lacks.
const OPTIONAL: [(&str, &str); 3] = [("outputs", "kafka"), ("inputs", "influxdb_listener"), ("inputs", "influxdb_v2_listener")];
