//! Configuration: from files to built plugins, with every error at once.
//!
//! | module | does |
//! | --- | --- |
//! | [`sources`] | which files, and reading them |
//! | [`parse`], [`substitute`], [`merge`] | text to trees of values with places; variables and secrets; several files to one |
//! | [`sections`], [`plugins`], [`operators`] | trees to checked values and built plugins |
//! | [`warnings`], [`telegraf`] | what runs but gives up a promise; what Telegraf has and Weir has not |
//! | [`report`], [`mask`], [`literal`] | findings as a person reads them, without secrets |
//! | [`environment`], [`registry`] | what all of it asks of the world; which plugins there are |
//! | [`types`] | the outcome |
//!
//! Loading touches nothing: a configuration can be loaded again while the agent runs, and thrown away.

mod context;
mod dedup;
pub mod environment;
// Used where expressions point at a character.
mod literal;
mod mask;
mod merge;
pub mod operators;
mod parse;
pub mod plugins;
pub mod registry;
pub mod report;
pub mod sections;
pub mod sources;
mod substitute;
mod telegraf;
#[cfg(test)]
mod tests;
pub mod types;
mod warnings;

use weir_engine::spec::{EngineSpec, RESULTS_VERSION};
use weir_plugin_api::options::{Diagnostic, Diagnostics, Item, Place, Severity, Table};

use self::{context::Context, merge::Merged};
pub use self::{
    environment::{Environment, System, control_socket, state_directory},
    registry::Registry,
    report::Report,
    sources::Sources,
    types::Config,
};

/// Loads a configuration: the checked outcome with the warnings about it, or a report of every error (and warning).
///
/// # Errors
/// The report; nothing was touched.
pub fn load(sources: &Sources, environment: &dyn Environment) -> Result<(Config, Report), Report> {
    load_files(sources::read_all(sources, environment), environment, &Registry::of_this_build())
}

#[cfg(any(test, feature = "demo"))]
impl Config {
    /// The same from text, for tests and configurations that are part of the binary; `name` stands for the file in messages.
    ///
    /// # Errors
    /// The report.
    pub fn from_str(text: &str, name: &str, environment: &dyn Environment) -> Result<(Self, Report), Report> {
        load_files(
            vec![(report::File { name: name.to_owned(), text: text.to_owned(), broken: false }, None)],
            environment,
            &Registry::of_this_build(),
        )
    }
}

fn load_files(read: Vec<sources::Read>, environment: &dyn Environment, registry: &Registry) -> Result<(Config, Report), Report> {
    let diagnostics = Diagnostics::default();
    let (mut files, mut roots, mut hidden, mut values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut broken: Vec<Place> = Vec::new();
    let declared = registry.secrets();
    for (index, (mut file, problem)) in read.into_iter().enumerate() {
        if let Some(problem) = problem {
            let place = Place { file: index, span: problem.at..problem.at };
            broken.push(Place { file: index, span: 0..file.text.len() });
            diagnostics.push(Diagnostic { severity: Severity::Error, place, message: problem.message, help: problem.help, secret: false });
        } else {
            let mut parsed = parse::parse(index, &file.text, &diagnostics);
            file.broken = !parsed.broken.is_empty();
            broken.extend(parsed.broken.iter().map(|span| Place { file: index, span: span.clone() }));
            substitute::substitute(&mut parsed.root, &file.text, environment, &diagnostics, &mut values);
            mask::Secrets { text: &file.text, declared: &declared, places: &mut hidden, values: &mut values }.collect(&parsed.root);
            roots.push(parsed.root);
        }
        files.push(file);
    }
    let before = diagnostics.take();
    let hash = hash(&roots);
    let context = Context { diagnostics: Diagnostics::default(), files: &files, environment, registry, incomplete: !broken.is_empty() };
    let config = check(&merge::merge(roots, &context), hash, &context);
    let mut found = context.diagnostics.take();
    // What broken text or a failed substitution entails is no finding of its own.
    found.retain(|d| !broken.iter().any(|region| inside(&d.place, region)) && !before.iter().any(|b| inside(&b.place, &d.place)));
    found.extend(before);
    let failed = found.iter().any(|d| d.severity == Severity::Error);
    let report = Report::new(files.clone(), hidden, &values, found);
    match config {
        Some(config) if !failed => Ok((config, report)),
        _ => Err(report),
    }
}

fn inside(place: &Place, region: &Place) -> bool {
    place.file == region.file && region.span.start <= place.span.start && place.span.start < region.span.end.max(region.span.start + 1)
}

/// Everything from the tree; `None` when something without which there is no whole is wrong.
fn check(merged: &Merged, hash: u64, context: &Context<'_>) -> Option<Config> {
    let limits = sections::limits(merged, context);
    let ring_batches = limits.as_ref().map_or(8, |(_, batches)| *batches);
    let agent = sections::agent(merged, ring_batches, context);
    let time = sections::time(merged, context);
    let storage = sections::storage(merged, context);
    let status = sections::status(merged, context);
    // Without these there is no telling what plugins get; their errors are reported.
    let (agent, (limits, _), (time, partition)) = (agent?, limits?, time?);
    let directory = storage.as_ref().and_then(|(_, options)| options.directory.clone());
    let settings = plugins::Settings {
        agent: &agent,
        partition: &partition,
        series_max: limits.series_max,
        directory: state_directory(directory.as_deref(), context.environment),
    };
    let mut claims = plugins::Claims::default();
    let inputs = plugins::inputs(merged, &settings, &mut claims, context);
    let outputs = plugins::outputs(merged, &settings, &mut claims, context);
    let windows = operators::windows(merged, &limits, context);
    let alerts = operators::alerts(merged, &windows, &outputs.names, context);
    let agent_alerts = operators::agent_alerts(merged, &agent.table, &outputs.names, context);
    nothing_to_do(merged, context);
    let (storage, storage_options) = storage?;
    if let Some(line) = &storage_options.power_fail {
        let place = merged.storage.table.get("power_fail").map_or_else(Place::default, |node| node.place.clone());
        claims.take(&[line.claim()], "storage.power_fail", &place, context);
    }
    let engine = EngineSpec {
        results_version: RESULTS_VERSION,
        inputs: inputs.specs,
        outputs: outputs.specs,
        levels: outputs.levels,
        windows,
        alerts,
        on_type_conflict: agent.table.on_type_conflict.to_spec(),
        agent_alerts,
        time,
        limits,
        storage,
        global_tags: agent.global_tags.clone(),
    };
    Some(Config {
        engine,
        inputs: inputs.built,
        outputs: outputs.outputs,
        actions: outputs.actions,
        agent: agent.options,
        directory: storage_options.directory,
        dead_letter_bytes_max: storage_options.dead_letter_bytes_max,
        endurance_bytes: storage_options.endurance_bytes,
        power_fail: storage_options.power_fail,
        status: status?,
        hash,
    })
}

/// A configuration that takes nothing in, or lets nothing out, is a mistake.
fn nothing_to_do(merged: &Merged, context: &Context<'_>) {
    if context.incomplete {
        return;
    }
    let end = context.files.last().map_or_else(Place::default, |_| Place { file: 0, span: 0..0 });
    if merged.inputs.is_empty() {
        context.error(
            end.clone(),
            "there is no input",
            Some("add one, for example [[inputs.mqtt_consumer]]; `weir plugins` lists them".into()),
        );
    }
    if merged.outputs.is_empty() && merged.alerts.is_empty() {
        context.error(
            end,
            "there is no output and no alert",
            Some("add one, for example [[outputs.influxdb_v2]]; `weir plugins` lists them".into()),
        );
    }
}

/// A hash of the whole configuration with its variables: FNV-1a over a form in which no two different trees are the same.
fn hash(roots: &[Table]) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    roots.iter().for_each(|root| hash.table(root));
    hash.0
}

struct Fnv(u64);

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn table(&mut self, table: &Table) {
        self.bytes(b"table");
        self.bytes(&(table.entries.len() as u64).to_le_bytes());
        for (key, _, node) in &table.entries {
            self.bytes(key.as_bytes());
            self.item(&node.item);
        }
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Text(text) => {
                self.bytes(b"text");
                self.bytes(text.as_bytes());
            }
            Item::Int(number) => {
                self.bytes(b"int");
                self.bytes(&number.to_le_bytes());
            }
            Item::Float(number) => {
                self.bytes(b"float");
                self.bytes(&number.to_bits().to_le_bytes());
            }
            Item::Bool(value) => self.bytes(&[u8::from(*value)]),
            Item::Array(items) => {
                self.bytes(b"array");
                self.bytes(&(items.len() as u64).to_le_bytes());
                items.iter().for_each(|node| self.item(&node.item));
            }
            Item::Table(table) => self.table(table),
        }
    }
}
