//! The table of edits: for each, what is said beforehand, what the document says and what the engine does are the same.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use weir_engine::{
    core::{Core, Effect, Event, FoundBlock, Now, OutboxPlace},
    operators::edit::{Fate, edits},
    record::ClockQuality,
    spec::EngineSpec,
};
use weir_plugin_api::{Batch, Cell, InputCounts, Kind, Position, Series};

use crate::config::{Config, System};

const BASE: &str = r#"
[agent]
omit_hostname = true
[global_tags]
site = "north"
[time]
idle_after = "60s"
[[inputs.tail]]
alias = "log"
files = ["in.lp"]
[[windows]]
name = "minute"
every = "1m"
by = ["device"]
fields = ["t*"]
aggregates = ["mean"]
lateness = "5s"
allowed_lateness = "0s"
[[alerts]]
name = "hot"
when = "t > 80"
clear = "t < 75"
for = "0s"
keep = "0s"
by = ["device"]
severity = "critical"
actions = ["note"]
[[alerts]]
name = "steady"
when = "t_mean > 80"
window = "minute"
[[outputs.file]]
alias = "out"
files = ["out.lp"]
[[actions.log]]
alias = "note"
"#;

/// An edit: in words, what is replaced by what, whose state it is about, what becomes of it, and what there is to say about that.
type Row = (&'static str, &'static str, &'static str, (&'static str, &'static str), Fate, &'static str);

const SENT: &str = "open windows are lost; nothing is sent where the old one has sent a result";
const ALERT: &str = "a firing alert is not resolved; transitions go on being numbered";

const ROWS: &[Row] = &[
    ("window: `every`", "every = \"1m\"", "every = \"2m\"", ("window", "minute"), Fate::StartsAnew, SENT),
    ("window: `period`", "every = \"1m\"", "every = \"1m\"\nperiod = \"2m\"", ("window", "minute"), Fate::StartsAnew, SENT),
    ("window: `align`", "every = \"1m\"", "every = \"1m\"\nalign = \"30s\"", ("window", "minute"), Fate::StartsAnew, SENT),
    ("window: `by`", "by = [\"device\"]\nfields", "fields", ("window", "minute"), Fate::StartsAnew, SENT),
    ("window: `fields`", "[\"t*\"]", "[\"t*\", \"u\"]", ("window", "minute"), Fate::StartsAnew, SENT),
    (
        "window: filters (`namepass`, `tagdrop` …)",
        "every = \"1m\"",
        "every = \"1m\"\nnamepass = [\"m\"]",
        ("window", "minute"),
        Fate::StartsAnew,
        SENT,
    ),
    ("window: `aggregates`", "[\"mean\"]", "[\"mean\", \"max\"]", ("window", "minute"), Fate::StartsAnew, SENT),
    ("window: `name_override`", "every = \"1m\"", "every = \"1m\"\nname_override = \"x\"", ("window", "minute"), Fate::StartsAnew, SENT),
    ("window: `time`", "every = \"1m\"", "every = \"1m\"\ntime = \"end\"", ("window", "minute"), Fate::StartsAnew, SENT),
    (
        "window: `lateness`",
        "lateness = \"5s\"\nallowed",
        "lateness = \"9s\"\nallowed",
        ("window", "minute"),
        Fate::Keeps,
        "what is closed stays closed",
    ),
    (
        "window: `allowed_lateness`",
        "allowed_lateness = \"0s\"",
        "allowed_lateness = \"1m\"",
        ("window", "minute"),
        Fate::Keeps,
        "what is freed stays freed",
    ),
    (
        "window: `reemit_every`, `drop_original`, `result_fields`",
        "every = \"1m\"",
        "every = \"1m\"\nreemit_every = \"1s\"\ndrop_original = false\nresult_fields = true",
        ("window", "minute"),
        Fate::Keeps,
        "",
    ),
    ("window: `name`", "\"minute\"", "\"m\"", ("window", "m"), Fate::IsNew, "as a window that is added; the old one is dropped"),
    (
        "window: removed",
        "name = \"minute\"",
        "name = \"other\"",
        ("window", "minute"),
        Fate::IsDropped,
        "so are points in windows that were open",
    ),
    (
        "window: added",
        "[[alerts]]\nname = \"hot\"",
        "[[windows]]\nname = \"hour\"\nevery = \"1h\"\n[[alerts]]\nname = \"hot\"",
        ("window", "hour"),
        Fate::IsNew,
        "begins with the next point",
    ),
    (
        "window: another place in the file",
        "[[windows]]\nname = \"minute\"",
        "[[windows]]\nname = \"hour\"\nevery = \"1h\"\n[[windows]]\nname = \"minute\"",
        ("window", "minute"),
        Fate::Keeps,
        "",
    ),
    ("alert: `when`", "t > 80", "t > 85", ("alert", "hot"), Fate::StartsAnew, ALERT),
    ("alert: `clear`", "t < 75", "t < 70", ("alert", "hot"), Fate::StartsAnew, ALERT),
    (
        "alert: `by`",
        "by = [\"device\"]\nseverity",
        "by = []\nseverity",
        ("alert", "hot"),
        Fate::StartsAnew,
        "a firing alert is not resolved",
    ),
    ("alert: filters", "when = \"t > 80\"", "when = \"t > 80\"\nnamepass = [\"m\"]", ("alert", "hot"), Fate::StartsAnew, ALERT),
    ("alert: `window`", "when = \"t > 80\"", "when = \"t > 80\"\nwindow = \"minute\"", ("alert", "hot"), Fate::StartsAnew, ALERT),
    (
        "alert: `for`, `keep`",
        "for = \"0s\"\nkeep = \"0s\"",
        "for = \"5s\"\nkeep = \"5s\"",
        ("alert", "hot"),
        Fate::Keeps,
        "a pending alert counts from where it began",
    ),
    ("alert: `severity`", "\"critical\"", "\"warning\"", ("alert", "hot"), Fate::Keeps, "transitions have the new tag"),
    ("alert: `actions`", "actions = [\"note\"]", "actions = []", ("alert", "hot"), Fate::Keeps, "transitions that wait go to the old ones"),
    (
        "alert: its window starts anew",
        "every = \"1m\"",
        "every = \"2m\"",
        ("alert", "steady"),
        Fate::Keeps,
        "a firing alert fires until a new result clears it",
    ),
    (
        "alert: `name`",
        "name = \"hot\"",
        "name = \"warm\"",
        ("alert", "warm"),
        Fate::IsNew,
        "as an alert that is added; the old one is dropped",
    ),
    (
        "alert: removed",
        "name = \"hot\"",
        "name = \"warm\"",
        ("alert", "hot"),
        Fate::IsDropped,
        "a firing alert is not resolved; its level actions are let go",
    ),
    (
        "alert: added",
        "[[outputs.file]]",
        "[[alerts]]\nname = \"cold\"\nwhen = \"t < 0\"\n[[outputs.file]]",
        ("alert", "cold"),
        Fate::IsNew,
        "begins with the next point",
    ),
    (
        "input: any option but `alias`",
        "files = [\"in.lp\"]",
        "files = [\"in.lp\"]\nfrom_beginning = true",
        ("input", "log"),
        Fate::Keeps,
        "position and counts",
    ),
    (
        "input: `dedup`",
        "files = [\"in.lp\"]",
        "files = [\"in.lp\"]\ndedup = {}",
        ("input", "log"),
        Fate::Keeps,
        "what it has seen stays as far as the new bounds let it; without `dedup` it is forgotten",
    ),
    (
        "input: `alias` changed",
        "alias = \"log\"",
        "alias = \"journal\"",
        ("input", "journal"),
        Fate::IsNew,
        "it begins where a new input begins",
    ),
    (
        "input: removed",
        "alias = \"log\"",
        "alias = \"journal\"",
        ("input", "log"),
        Fate::IsPutAside,
        "position and counts wait for its return; points of it that wait for the clock are dropped",
    ),
    (
        "input: added",
        "[[windows]]",
        "[[inputs.tail]]\nalias = \"second\"\nfiles = [\"x.lp\"]\n[[windows]]",
        ("input", "second"),
        Fate::IsNew,
        "",
    ),
    (
        "output: any option but `alias`",
        "files = [\"out.lp\"]",
        "files = [\"out.lp\"]\nnamedrop = [\"x\"]",
        ("output", "out"),
        Fate::Keeps,
        "filters choose among what leaves from now on; what waits, waits",
    ),
    (
        "output, edge action: `alias` changed",
        "alias = \"out\"",
        "alias = \"away\"",
        ("output", "away"),
        Fate::IsNew,
        "gets what leaves from now on",
    ),
    (
        "output, edge action: removed",
        "alias = \"out\"",
        "alias = \"away\"",
        ("output", "out"),
        Fate::IsDropped,
        "so is what waited for it; the log says how much",
    ),
    (
        "output: added",
        "[[actions.log]]",
        "[[outputs.file]]\nalias = \"second\"\nfiles = [\"x\"]\n[[actions.log]]",
        ("output", "second"),
        Fate::IsNew,
        "gets what leaves from now on; what its file has already stays, also of a time before",
    ),
    (
        "`[global_tags]`, `host`: windows",
        "site = \"north\"",
        "site = \"south\"",
        ("window", "minute"),
        Fate::StartsAnew,
        "their results are other series",
    ),
    (
        "`[global_tags]`, `host`: alerts",
        "site = \"north\"",
        "site = \"south\"",
        ("alert", "hot"),
        Fate::Keeps,
        "transitions have the new tags",
    ),
    (
        "`[time]`: `idle_after`, `group_ttl`, `future_skew_max` …",
        "idle_after = \"60s\"",
        "idle_after = \"30s\"\nfuture_skew_max = \"20s\"",
        ("window", "minute"),
        Fate::Keeps,
        "",
    ),
    (
        "`[time]`: `partition`",
        "idle_after = \"60s\"",
        "idle_after = \"60s\"\npartition = [\"device\"]",
        ("window", "minute"),
        Fate::Keeps,
        "open windows wait for the old partitions until they have been silent for `idle_after`",
    ),
    (
        "`[limits]`, `[storage]`, `[agent]`",
        "[global_tags]",
        "interval = \"1s\"\n[limits]\ngroups_max = 100\n[storage]\ncommit_interval = \"1s\"\n[global_tags]",
        ("window", "minute"),
        Fate::Keeps,
        "what is there already stays, whatever the new bound",
    ),
];

fn spec(text: &str) -> EngineSpec {
    match Config::from_str(text, "weir.toml", &System::default()) {
        Ok((config, _)) => config.engine,
        Err(report) => panic!("{}\n{text}", report.render(false)),
    }
}

fn edited(row: &Row) -> String {
    assert!(BASE.contains(row.1), "{}: {:?} is not there", row.0, row.1);
    match row.0 {
        // Whatever refers to it, too.
        "window: `name`" => BASE.replace(row.1, row.2),
        "window: removed" => BASE.replace(row.1, row.2).replace("window = \"minute\"", "window = \"other\""),
        _ => BASE.replacen(row.1, row.2, 1),
    }
}

const SECOND: i64 = 1_000_000_000;

fn now(second: i64) -> Now {
    let steady = second * SECOND;
    Now { steady, wall: 1_800_000_000 * SECOND + steady, quality: ClockQuality::Synced }
}

/// A state in which every part of the configuration has something, and what lies in the outbox.
fn lived(spec: &Arc<EngineSpec>) -> (Vec<u8>, Vec<FoundBlock>) {
    let mut core = Core::new(Arc::clone(spec), now(1));
    let mut effects = Vec::new();
    core.start(now(1), &mut effects);
    let mut batch = Batch { number: 1, position: Position::None, read_at: SECOND, points: 3, ..Batch::default() };
    batch.counts = InputCounts { read: 3, ..InputCounts::default() };
    batch.new_series.push(Arc::new(Series::from_parts("m", &[("device", "a")])));
    batch.new_partitions.push("a".into());
    batch.new_fields.push("t".into());
    let cell = |second: i64| Cell {
        series: 0,
        field: 0,
        kind: Kind::Float as u8,
        flags: Cell::START,
        time: now(second).wall,
        value: 90f64.to_bits(),
    };
    batch.cells = [2, 70, 140].map(cell).to_vec();
    core.step(now(150), Event::Batch { input: 0, batch }, &mut effects);
    core.step(now(151), Event::Checkpoint, &mut effects);
    let mut found = None;
    for effect in effects {
        if let Effect::Checkpoint { outbox, state, .. } = effect {
            let places = outbox.iter().enumerate().map(|(n, block)| FoundBlock {
                lane: block.lane,
                place: OutboxPlace { segment: n as u64 + 1, offset: 0, bytes: 1 },
                first: block.first,
                points: block.points,
            });
            found = Some((state, places.collect()));
        }
    }
    found.expect("a checkpoint")
}

/// What became of each part.
fn fates(before: &EngineSpec, after: &Core) -> BTreeMap<(String, String), Fate> {
    let mut fates = BTreeMap::new();
    let ledger = after.ledger();
    let mut note = |kind: &str, name: &str, fate| {
        fates.insert((kind.to_owned(), name.to_owned()), fate);
    };
    for line in &ledger.inputs {
        match line.name.strip_suffix(" (gone)") {
            Some(name) => note("input", name, Fate::IsPutAside),
            None => note("input", &line.name, if line.recorded > 0 { Fate::Keeps } else { Fate::IsNew }),
        }
    }
    let known = |name: &str| before.windows.iter().any(|w| w.name == name) || before.alerts.iter().any(|a| a.name == name);
    for (at, line) in ledger.operators.iter().enumerate() {
        let kind = if at < after.spec().windows.len() { "window" } else { "alert" };
        let fate = match (line.counts.applied, known(&line.name)) {
            (0, true) => Fate::StartsAnew,
            (0, false) => Fate::IsNew,
            _ => Fate::Keeps,
        };
        note(kind, &line.name, fate);
    }
    let windows = before.windows.iter().map(|w| ("window", &w.name)).chain(before.alerts.iter().map(|a| ("alert", &a.name)));
    for (kind, name) in windows.filter(|(_, name)| !ledger.operators.iter().any(|line| line.name == **name)) {
        note(kind, name, Fate::IsDropped);
    }
    for line in &ledger.outputs {
        note("output", &line.name, if line.routed > 0 { Fate::Keeps } else { Fate::IsNew });
    }
    for output in before.outputs.iter().filter(|o| !ledger.outputs.iter().any(|line| line.name == o.name)) {
        note("output", &output.name, Fate::IsDropped);
    }
    fates
}

#[test]
fn what_the_table_says_of_an_edit_is_what_happens_and_what_is_said_beforehand() {
    let before = Arc::new(spec(BASE));
    let (state, outbox) = lived(&before);
    for row in ROWS {
        let after = Arc::new(spec(&edited(row)));
        let mut core = Core::restore(Arc::clone(&after), &state, &outbox, now(152)).expect("the state");
        core.adopt();
        assert_eq!(core.ledger().residues(), Vec::<String>::new(), "{}", row.0);
        let happened = fates(&before, &core);
        let said: BTreeMap<_, _> = edits(&before, &after).into_iter().map(|e| ((e.kind.to_owned(), e.name), e.fate)).collect();
        assert_eq!(said, happened, "{}", row.0);
        let (kind, name) = row.3;
        assert_eq!(happened.get(&(kind.to_owned(), name.to_owned())), Some(&row.4), "{}: {happened:?}", row.0);
    }
}

#[test]
fn what_is_only_said_otherwise_is_no_edit() {
    let before = spec(BASE);
    for (from, to) in [
        ("every = \"1m\"", "every = \"60s\""),
        ("lateness = \"5s\"", "lateness = \"5000ms\""),
        ("every = \"1m\"", "every = \"1m\"\nperiod = \"1m\""),
        ("by = [\"device\"]\nfields = [\"t*\"]", "fields = [\"t*\"]\nby = [\"device\"]"),
        ("when = \"t > 80\"", "when = \"(t > 80.0)\""),
        ("keep = \"0s\"\n", ""),
    ] {
        assert!(BASE.contains(from), "{from}");
        let after = spec(&BASE.replacen(from, to, 1));
        assert!(before == after || edits(&before, &after).iter().all(|e| e.fate == Fate::Keeps && e.why.is_empty()), "{from} → {to}");
    }
}

/// Two that swap names are two others under known names: each goes on with the state of its name if that still means the same.
#[test]
fn aliases_that_are_swapped_take_the_state_of_their_name() {
    let two = BASE.to_owned()
        + "[[windows]]\nname = \"hour\"\nevery = \"1h\"\naggregates = [\"max\"]\n[[outputs.file]]\nalias = \"second\"\nfiles = [\"second.lp\"]\n";
    let swap = |text: &str, a: &str, b: &str| text.replace(a, "\u{1}").replace(b, a).replace('\u{1}', b);
    let swapped = swap(&swap(&two, "name = \"minute\"", "name = \"hour\""), "alias = \"out\"", "alias = \"second\"");
    let fates: BTreeMap<_, _> = edits(&spec(&two), &spec(&swapped)).into_iter().map(|e| ((e.kind, e.name), e.fate)).collect();
    for (kind, name, fate) in [
        ("window", "minute", Fate::StartsAnew),
        ("window", "hour", Fate::StartsAnew),
        ("output", "out", Fate::Keeps),
        ("output", "second", Fate::Keeps),
        ("alert", "steady", Fate::Keeps),
    ] {
        assert_eq!(fates.get(&(kind, name.to_owned())), Some(&fate), "{kind} {name}: {fates:?}");
    }
}

/// `UPDATE_EXPECTED=1` writes it anew.
#[test]
fn the_document_has_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/EDITS.md");
    let mut expected = String::from(INTRODUCTION);
    for (edit, _, _, (kind, _), fate, note) in ROWS {
        let _ = writeln!(expected, "| {edit} | the {kind} {} | {note} |", fate.words());
    }
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(path, &expected).expect("written");
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), expected, "UPDATE_EXPECTED=1 writes it anew");
}

const INTRODUCTION: &str = "# What an edit of the configuration does to the state

State is kept under names: an input's position, a window's panes, an alert's groups, an output's cursors. An edit followed by a reload
(SIGHUP), by a stop and a start, or by a `kill -9` and a start comes to the same: what was taken in before is computed as it was configured
then, and the state goes over to the new configuration. The log says what starts anew and what is dropped.

`weir check --against-running` says it beforehand, part by part; `weir check --against DIRECTORY` asks a state directory instead.

A test makes every edit of this table and compares. The same said otherwise (`60s` for `1m`, tables in another order, a default written
out) is no edit at all.

An upgrade of the agent is none either, unless the new version computes other results of the same readings: checkpoints and journal say
with which version of the results they were made, `weir check --against-running` tells it, and so does the log where a crash makes the new
version go on with what the old one had begun.

| edit | what becomes of the state | |
| --- | --- | --- |
";

#[test]
fn the_comparison_is_a_line_for_each_part() {
    let text = super::against::table(&spec(BASE), &spec(&BASE.replace("every = \"1m\"", "every = \"2m\"").replace("\"hot\"", "\"warm\"")));
    for line in [
        "\ninput   log        keeps its state\n",
        "\nwindow  minute     starts anew: every, period\n",
        "\nalert   steady     keeps its state (its window starts anew)\n",
        "\nalert   warm       is new\n",
        "\nalert   hot        is dropped (what fires is never resolved)\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}
