//! Tests of loading as a whole, on a world that answers from memory.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use weir_plugin_api::{
    chunk::{Lane, Points},
    options::Secret,
    plugin::{
        ActionEntry, AnyAction, AnyInput, BoxFuture, BuiltInput, EdgeAction, Entry, InputContext, InputEntry, LevelAction, Notification,
        Outcome, Output, OutputEntry, PluginError, PolledInput,
    },
};

use super::*;

/// A plugin of every sort, so that these tests do not depend on which ones a build has.
struct Nothing;

impl PolledInput for Nothing {
    fn gather<'a>(&'a mut self, _: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(async { Ok(()) })
    }
}

impl Output for Nothing {
    fn write<'a>(&'a mut self, _: Lane, _: &'a Points) -> BoxFuture<'a, Outcome> {
        Box::pin(async { Outcome::delivered() })
    }
}

impl EdgeAction for Nothing {
    fn fire<'a>(&'a mut self, _: &'a Notification) -> BoxFuture<'a, Outcome> {
        Box::pin(async { Outcome::delivered() })
    }
}

impl LevelAction for Nothing {
    fn set<'a>(&'a mut self, _: bool) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(async { Ok(()) })
    }
}

weir_plugin_api::options! {
    /// Options of the test's plugins.
    #[allow(dead_code)]
    struct Options {
        /// Where it listens.
        port: Option<String> = None,
        /// A secret by its type only.
        username: Secret = Secret::default(),
        /// How many.
        max_undelivered_messages: u32 = 1000,
    }
}

static INPUT: InputEntry = Entry {
    name: "sensor",
    about: "",
    specs: Options::specs,
    unsupported: &["client_trace"],
    build: |section, _| {
        let claims = Options::read(section)?.port.map(|port| format!("tcp:{port}"));
        Some(BuiltInput { input: AnyInput::Polled(Box::new(Nothing)), claims: claims.into_iter().collect() })
    },
};
static OUTPUT: OutputEntry = Entry { name: "store", about: "", specs: Vec::new, unsupported: &[], build: |_, _| Some(Box::new(Nothing)) };
static EDGE: ActionEntry =
    Entry { name: "hook", about: "", specs: Vec::new, unsupported: &[], build: |_, _| Some(AnyAction::Edge(Box::new(Nothing))) };
static LEVEL: ActionEntry =
    Entry { name: "lamp", about: "", specs: Vec::new, unsupported: &[], build: |_, _| Some(AnyAction::Level(Box::new(Nothing))) };

fn registry() -> Registry {
    Registry { inputs: vec![&INPUT], outputs: vec![&OUTPUT], actions: vec![&EDGE, &LEVEL] }
}

fn load(sources: &Sources, world: &World) -> Result<(Config, Report), Report> {
    load_files(sources::read_all(sources, world), world, &registry())
}

fn from_str(text: &str, world: &World) -> Result<(Config, Report), Report> {
    let file = report::File { name: "weir.toml".into(), text: text.into(), broken: false };
    load_files(vec![(file, None)], world, &registry())
}

#[derive(Default)]
struct World {
    variables: BTreeMap<&'static str, &'static str>,
    files: BTreeMap<&'static str, &'static str>,
}

impl Environment for World {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(|v| (*v).to_owned())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let found = path.to_str().and_then(|path| self.files.get(path));
        found.map(|text| text.as_bytes().to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, path: &Path) -> io::Result<Option<Vec<PathBuf>>> {
        let inside: Vec<PathBuf> = self.files.keys().map(PathBuf::from).filter(|file| file.parent() == Some(path)).rev().collect();
        Ok((!inside.is_empty()).then_some(inside))
    }

    fn hostname(&self) -> String {
        "gateway".into()
    }

    fn is_root(&self) -> bool {
        true
    }
}

const REST: &str = "\n[[inputs.sensor]]\n[[outputs.store]]\n";

fn load_text(text: &str) -> Result<(Config, Report), Report> {
    from_str(&format!("{text}{REST}"), &World::default())
}

fn messages(text: &str) -> Vec<String> {
    match load_text(text) {
        Ok((_, report)) | Err(report) => report.lines().collect(),
    }
}

#[test]
fn defaults_are_those_of_the_engine() {
    let (config, report) = load_text("").unwrap();
    assert!(report.is_empty(), "{report:?}");
    let spec = EngineSpec::default();
    assert_eq!(format!("{:?}", config.engine.time), format!("{:?}", spec.time));
    assert_eq!(format!("{:?}", config.engine.limits), format!("{:?}", spec.limits));
    assert_eq!(format!("{:?}", config.engine.storage), format!("{:?}", spec.storage));
    assert_eq!(config.engine.global_tags, [("host".to_owned(), "gateway".to_owned())]);
    assert_eq!(config.inputs[0].shape.tags, config.engine.global_tags);
    assert_eq!(config.engine.outputs[0].name, "store");
    assert!(config.directory.is_none() && config.agent.round_interval);
}

#[test]
fn all_errors_of_all_files_are_reported_in_order() {
    let files = [
        ("/c/a.toml", "[agent]\nintervall = \"1s\"\n[storage]\ndurability = \"powr\"\n"),
        ("/c/b.toml", "[time]\nidle_after = []\nx\n[limits]\nseries_max = 0\n[[inputs.sensor]]\n"),
    ];
    let world = World { files: files.into(), ..World::default() };
    let sources = Sources { config_directory: vec!["/c".into()], ..Sources::default() };
    let report = load(&sources, &world).err().unwrap();
    let lines: Vec<String> = report.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].starts_with("/c/a.toml:2:1: unknown option `intervall` in [agent] (did you mean `interval`?)"), "{lines:?}");
    assert!(lines[1].starts_with("/c/a.toml:4:14: `durability`: expected one of power, crash, none; did you mean \"power\"?"), "{lines:?}");
    assert!(lines[2].starts_with("/c/b.toml:3:"), "{lines:?}");
    assert!(lines[3].starts_with("/c/b.toml:5:14: `series_max` must be between 1 and"), "{lines:?}");
}

#[test]
fn files_are_joined_and_contradictions_name_both_places() {
    let files = [
        ("/a.toml", "[agent]\ninterval = \"1s\"\nworkers = 1\n[[inputs.sensor]]\n"),
        ("/b.toml", "[agent]\ninterval = \"2s\"\nworkers = 1\n[[outputs.store]]\n"),
    ];
    let world = World { files: files.into(), ..World::default() };
    let sources = Sources { config: vec!["/a.toml".into(), "/b.toml".into()], ..Sources::default() };
    let report = load(&sources, &world).err().unwrap();
    let lines: Vec<String> = report.lines().collect();
    assert_eq!(lines, ["/b.toml:2:1: `interval` of [agent] is set differently at /a.toml:2 (keep one of them)"]);
}

#[test]
fn without_arguments_the_usual_places_are_looked_at() {
    let config = "[[inputs.sensor]]\n[[outputs.store]]\n";
    let mut world = World {
        files: [("/etc/weir/weir.toml", config), ("/etc/weir/weir.d/a.toml", "[[inputs.sensor]]\nalias = \"more\"\n")].into(),
        ..World::default()
    };
    let (loaded, _) = load(&Sources::default(), &world).unwrap();
    assert_eq!(loaded.inputs.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["sensor", "more"]);
    world.variables.insert("WEIR_CONFIG_PATH", "/elsewhere.toml");
    let report = load(&Sources::default(), &world).err().unwrap();
    assert!(report.lines().next().unwrap().contains("/elsewhere.toml can't be read"));
}

#[test]
fn names_are_numbered_and_never_take_an_alias() {
    let (config, _) = load_text("[[inputs.sensor]]\n[[inputs.sensor]]\nalias = \"sensor#2\"\n").unwrap();
    assert_eq!(config.inputs.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["sensor", "sensor#2", "sensor#3"]);
    let lines = messages("[[inputs.sensor]]\nalias = \"a\"\n[[inputs.sensor]]\nalias = \"a\"\n");
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("weir.toml:4:9: an input named \"a\" is there already, at weir.toml:2"), "{lines:?}");
}

#[test]
fn variables_and_secrets_are_put_in_and_never_shown() {
    let world = World {
        variables: [("INTERVAL", "30s"), ("LIMIT", "7"), ("BAD", "hunter2"), ("EMPTY", ""), ("CREDENTIALS_DIRECTORY", "/cred")].into(),
        files: [("/run/secret", "north\n"), ("/cred/site", "south")].into(),
    };
    let text = format!(
        "[agent]\ninterval = \"${{INTERVAL}}\"\nmetric_batch_size = \"${{LIMIT}}\"\nomit_hostname = \"${{EMPTY:-true}}\"\n[global_tags]\na = \"@{{file:/run/secret}}\"\nb = \"$${{x}} $share/@@{{y\"\nc = \"@{{credential:site}}\"\n{REST}"
    );
    let (config, _) = from_str(&text, &world).unwrap();
    assert_eq!(config.inputs[0].interval.as_secs(), 30);
    assert_eq!(config.outputs[0].batch, 7);
    let tags = [("a", "north"), ("b", "${x} $share/@{y"), ("c", "south")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(config.engine.global_tags, tags);
    let text = format!(
        "[agent]\ninterval = \"${{BAD}}\"\nworkers = \"${{BAD}}\"\nlog_level = \"${{BAD}}\"\nhostname = \"${{NO}}\"\n[storage]\ndirectory = \"@{{store:x}}\"\n{REST}"
    );
    let report = from_str(&text, &world).err().unwrap();
    let said = report.render(false);
    assert_eq!(report.count(Severity::Error), 5, "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    assert!(said.contains("environment variable `NO` is not set"), "{said}");
}

#[test]
fn loading_again_gives_the_same_and_another_value_another_hash() {
    let (first, _) = load_text("[global_tags]\na = \"1\"").unwrap();
    let (again, _) = load_text("[global_tags]\na = \"1\"").unwrap();
    let (other, _) = load_text("[global_tags]\na = \"2\"").unwrap();
    assert_eq!(first.hash, again.hash);
    assert_ne!(first.hash, other.hash);
}

#[test]
fn windows_and_alerts_are_checked_against_each_other() {
    let text = "[[windows]]\nname = \"minute\"\nevery = \"1m\"\nperiod = \"90s\"\naggregates = [\"mean\", \"mean\"]\n\
                [[alerts]]\nname = \"hot\"\nwhen = \"x > 1\"\nwindow = \"minuet\"\nactions = [\"ops\"]\n";
    let lines = messages(text);
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].contains("not a whole multiple of `every` (the nearest is \"2m\")"), "{lines:?}");
    assert!(lines[1].contains("\"mean\" is named twice"), "{lines:?}");
    assert!(lines[2].starts_with("weir.toml:9:10: there is no window \"minuet\" (did you mean \"minute\"?)"), "{lines:?}");
    assert!(lines[3].starts_with("weir.toml:10:12: there is no action \"ops\""), "{lines:?}");
}

#[test]
fn what_telegraf_has_is_refused_by_that_name() {
    let lines = messages("[[inputs.cpu]]\n[[processors.rename]]\n[[aggregators.minmax]]\n[agent]\nlogfile = \"x\"\n");
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].contains("Telegraf has inputs.cpu"));
    assert!(lines[1].contains("Weir has no processors"));
    assert!(lines[2].contains("[[windows]]"));
    assert!(lines[3].contains("`logfile` of [agent] is a Telegraf option"));
}

#[test]
fn a_configuration_without_inputs_or_outputs_is_refused() {
    let report = from_str("", &World::default()).err().unwrap();
    assert_eq!(report.count(Severity::Error), 2);
}

#[test]
fn where_a_promise_is_given_up_a_warning_says_so() {
    let (_, report) =
        load_text("[agent]\nmetric_buffer_limit = 10000\n[storage]\ndurability = \"none\"\n[status]\nlisten = \"0.0.0.0:9273\"").unwrap();
    assert_eq!(report.count(Severity::Warning), 3, "{report:?}");
}

#[test]
fn a_long_line_is_clipped_around_the_place() {
    let text = format!("[agent]\nhostname = \"{}\"\nworkers = {{ a = \"{}\", b = 1 }}\n", "x".repeat(300), "y".repeat(300));
    let report = load_text(&text).err().unwrap();
    assert!(report.render(false).lines().all(|line| line.chars().count() < 135), "{report:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_panics_the_loader(text in "(\\[\\[?(inputs\\.sensor|outputs\\.store|windows|alerts|agent|storage|x)\\]\\]?\n|[a-z_]{1,9} = (\"[^\"]{0,12}|'[a-zA-Z0-9$@{}:-]{0,12}'|[0-9.e+-]{1,20}|\\[[0-9, ]{0,9}\\]?|\\{ a = 1 \\})\n|[\\PC\n\t]{0,20}){0,12}") {
        if let Err(report) = load_text(&text) {
            prop_assert!(!report.render(true).is_empty());
        }
    }

    #[test]
    fn no_secret_is_shown_wherever_the_error_is(before in "[ -~]{0,20}\n?", key in "(password|token|pasword|api_key|sasl_password)", after in "[ -~]{0,20}", quote in "[\"']?") {
        let text = format!("[[outputs.store]]\n{before}\n{key} = {quote}hunter2{quote}{after}\nfils = 1\n");
        if let Err(report) = load_text(&text) {
            prop_assert!(!report.render(false).contains("hunter2"), "{}", report.render(false));
        }
    }
}

#[test]
fn two_inputs_on_one_port_are_refused_with_both_places() {
    let lines = messages(
        "[[inputs.sensor]]\nport = \"0.0.0.0:8086\"\n[[inputs.sensor]]\nport = \"127.0.0.1:8086\"\n[[inputs.sensor]]\nport = \"127.0.0.1:8087\"\n",
    );
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("weir.toml:3:1: 127.0.0.1:8086 is taken by the inputs.sensor at weir.toml:1"), "{lines:?}");
}

#[test]
fn actions_are_found_by_alias_and_know_their_sort() {
    let text = "[[actions.hook]]\nalias = \"ops\"\nexpires_after = \"5m\"\n[[actions.lamp]]\nalias = \"siren\"\n\
                [[alerts]]\nname = \"hot\"\nwhen = \"x > 1\"\nfor = \"30s\"\nactions = [\"siren\", \"ops\"]\n";
    let (config, _) = load_text(text).unwrap();
    let alert = &config.engine.alerts[0];
    assert_eq!((alert.edge_actions, alert.level_actions.as_slice(), alert.for_), (0b10, [0].as_slice(), 30_000_000_000));
    let edge = &config.engine.outputs[1];
    assert!(edge.edge && edge.alerts && !edge.results && edge.expires_after == 300_000_000_000);
    assert_eq!(config.engine.inputs[0].window_messages, 1000);
    let lines = messages("[[actions.lamp]]\nalias = \"siren\"\nexpires_after = \"5m\"\n[[actions.hook]]\n");
    assert!(lines[0].contains("unknown option `expires_after`") && lines[1].contains("`alias` is missing"), "{lines:?}");
}

#[test]
fn a_secret_by_its_type_is_hidden_on_the_line_of_another_error() {
    let report = load_text("[[inputs]]\n[inputs.sensor]\nx = {}\n").err().unwrap();
    assert!(!report.is_empty());
    let report = load_text("inputs.sensor = [{ username = \"hunter2\", prot = 1 }]\n").err().unwrap();
    let said = report.render(false);
    assert!(said.contains("username = •••, prot = 1") && said.contains("did you mean `port`"), "{said}");
}

#[test]
fn more_outputs_than_the_engine_has_bits_are_refused() {
    let lines = messages(&"[[outputs.store]]\n".repeat(64));
    assert!(lines.len() == 1 && lines[0].contains("65 outputs and actions, 64 is the most"), "{lines:?}");
}

#[test]
fn an_unclosed_table_spoils_itself_and_nothing_after_it() {
    let lines = messages("[agent]\nhostname = [\n\"a\",\n[storage]\ndurability = \"powr\"\n[time]\nidle_after = \"\"\"\n1s\n");
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].contains("unclosed array"), "{lines:?}");
    assert!(lines[1].starts_with("weir.toml:5:14: `durability`"), "{lines:?}");
    assert!(lines[2].contains("multi-line basic string"), "{lines:?}");
}

#[test]
fn an_error_in_a_condition_points_at_the_character() {
    let lines = messages("[[alerts]]\nname = \"a\"\nwhen = \"tag(\\\"x\\\") == \\\"y\\\" and ) 1\"\nclear = '''\nx <'''\n");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("weir.toml:3:33: `when`: "), "{lines:?}");
    assert!(lines[1].starts_with("weir.toml:5:4: `clear`: "), "{lines:?}");
    let world = World { variables: [("WHEN", "hunter2 >")].into(), ..World::default() };
    let report = from_str(&format!("[[alerts]]\nname = \"a\"\nwhen = \"${{WHEN}}\"\n{REST}"), &world).err().unwrap();
    assert!(!report.render(false).contains("hunter2"), "{report:?}");
}

#[test]
fn a_condition_on_fields_a_window_does_not_give_is_warned_of() {
    let text = "[[windows]]\nname = \"w\"\nevery = \"1m\"\naggregates = [\"mean\", \"p95\"]\n[[alerts]]\nname = \"a\"\nwindow = \"w\"\n";
    let lines = messages(&format!("{text}when = \"t > 1 and t_mean > 1 and t_p95 > 1 and t_max > 1\"\n"));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("have no field `t`, but such as `t_mean`") && lines[1].contains("no field `t_max`"), "{lines:?}");
}

/// Values of every type, fit and unfit for anything.
const VALUES: [&str; 24] = [
    "\"\"",
    "\"x\"",
    "0",
    "1",
    "-1",
    "65536",
    "9223372036854775807",
    "1.5",
    "nan",
    "true",
    "\"10s\"",
    "\"-1s\"",
    "\"999999999w\"",
    "\"64MiB\"",
    "[]",
    "[\"\"]",
    "[\"tcp://localhost:1883\"]",
    "[\"a/+/#/b\"]",
    "[1, \"x\"]",
    "{}",
    "{ a = \"b\" }",
    "\"tcp://:0\"",
    "\"http://[::1\"",
    "\"\\u0000\"",
];

/// A table of one of the build's own plugins, every option as likely as any value.
fn any_plugin() -> impl Strategy<Value = String> {
    let registry = Registry::of_this_build();
    let mut plugins: Vec<(String, Vec<&'static str>)> = Vec::new();
    macro_rules! add {
        ($kind:literal, $entries:expr) => {
            for entry in $entries {
                plugins.push((format!("{}.{}", $kind, entry.name), (entry.specs)().iter().map(|spec| spec.name).collect()));
            }
        };
    }
    add!("inputs", registry.inputs);
    add!("outputs", registry.outputs);
    add!("actions", registry.actions);
    let options = prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&VALUES[..])), 0..8);
    (prop::sample::select(plugins), options).prop_map(|((path, names), options)| {
        let mut chosen = BTreeMap::new();
        for (index, value) in options.into_iter().filter(|_| !names.is_empty()) {
            chosen.insert(names[index.index(names.len())], value);
        }
        let lines: String = chosen.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        format!("[[{path}]]\nalias = \"a\"\n{lines}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_options_panic_a_plugin_of_this_build(text in any_plugin()) {
        let loaded = Config::from_str(&text, "weir.toml", &World::default());
        prop_assert!(loaded.is_err(), "an input or an output is missing: {text}");
    }
}

#[test]
fn the_reference_says_the_defaults() {
    let reference = include_str!("../../../configs/weir.toml");
    let (reference, report) = Config::from_str(reference, "weir.toml", &World::default()).unwrap();
    assert!(report.is_empty(), "{report:?}");
    let (default, _) = load_text("").unwrap();
    let told = |config: &Config| {
        let engine = &config.engine;
        format!("{:?} {:?} {:?} {:?} {:?} {:?}", engine.time, engine.limits, engine.storage, config.agent, config.status, config.directory)
    };
    assert_eq!(told(&reference), told(&default));
    let (input, other) = (&reference.inputs[0], &default.inputs[0]);
    assert_eq!((input.interval, input.jitter, input.offset), (other.interval, other.jitter, other.offset));
    let (output, other) = (&reference.outputs[0], &default.outputs[0]);
    assert_eq!((output.batch, output.flush_interval, output.flush_jitter), (other.batch, other.flush_interval, other.flush_jitter));
}
