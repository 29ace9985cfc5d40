//! What an edit of the configuration does to the state, said beforehand.
//!
//! Apart from what does it, so that it can be asked without a state; both decide by the same hash of what gives an operator its meaning.

use super::{alert::store::alert_meaning, window::state::window_meaning};
use crate::spec::{AlertSpec, EngineSpec, WindowSpec};

/// What becomes of the state of one input, window, alert or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Keeps,
    /// It means something else now, and begins empty.
    StartsAnew,
    /// There was nothing of this name.
    IsNew,
    /// Its position and counts wait for its return, its progress in event time is dropped.
    IsPutAside,
    /// There is nothing of this name any more.
    IsDropped,
}

impl Fate {
    /// In words, after its name.
    pub fn words(self) -> &'static str {
        match self {
            Self::Keeps => "keeps its state",
            Self::StartsAnew => "starts anew",
            Self::IsNew => "is new",
            Self::IsPutAside => "is put aside",
            Self::IsDropped => "is dropped",
        }
    }
}

/// What an edit does to one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// `agent`, `input`, `window`, `alert` or `output`; edge actions are outputs.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What becomes of its state.
    pub fate: Fate,
    /// Options that were changed, and what follows from it; may be empty.
    pub why: String,
}

/// Names of the fields in which two values differ.
macro_rules! differing {
    ($a:expr, $b:expr, $($field:ident => $name:literal),+ $(,)?) => {{
        let (a, b) = ($a, $b);
        let mut names: Vec<&'static str> = Vec::new();
        $(if a.$field != b.$field { names.push($name); })+
        names
    }};
}

/// What replacing `old` by `new` does to the state of every part: inputs, windows, alerts, outputs; those that are dropped stand last of their
/// kind.
pub fn edits(old: &EngineSpec, new: &EngineSpec) -> Vec<Edit> {
    let mut edits = Vec::new();
    if old.results_version != new.results_version {
        let why = format!("results are computed as version {} does, so far as {}", new.results_version, old.results_version);
        edits.push(Edit { kind: "agent", name: "upgrade".into(), fate: Fate::Keeps, why });
    }
    let names = |list: &[crate::spec::InputSpec]| list.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
    named("input", &names(&old.inputs), &names(&new.inputs), Fate::IsPutAside, &mut edits);
    windows(old, new, &mut edits);
    alerts(old, new, &mut edits);
    let names = |list: &[crate::spec::OutputSpec]| list.iter().map(|o| o.name.clone()).collect::<Vec<_>>();
    named("output", &names(&old.outputs), &names(&new.outputs), Fate::IsDropped, &mut edits);
    edits
}

/// Parts of which the name is all that counts.
fn named(kind: &'static str, old: &[String], new: &[String], gone: Fate, edits: &mut Vec<Edit>) {
    let fate = |name| if old.contains(name) { Fate::Keeps } else { Fate::IsNew };
    edits.extend(new.iter().map(|name| Edit { kind, name: name.clone(), fate: fate(name), why: String::new() }));
    let missing = old.iter().filter(|name| !new.contains(name));
    edits.extend(missing.map(|name| Edit { kind, name: name.clone(), fate: gone, why: String::new() }));
}

fn windows(old: &EngineSpec, new: &EngineSpec, edits: &mut Vec<Edit>) {
    for window in &new.windows {
        let before = old.windows.iter().find(|w| w.name == window.name);
        let (fate, why) = match before {
            Some(before) if window_meaning(before, old) == window_meaning(window, new) => (Fate::Keeps, changes(before, window)),
            Some(before) => {
                let mut changed = changes(before, window);
                if old.global_tags != new.global_tags {
                    changed.push("global tags");
                }
                (Fate::StartsAnew, changed)
            }
            None => (Fate::IsNew, Vec::new()),
        };
        edits.push(Edit { kind: "window", name: window.name.clone(), fate, why: why.join(", ") });
    }
    for window in old.windows.iter().filter(|w| !new.windows.iter().any(|n| n.name == w.name)) {
        edits.push(Edit { kind: "window", name: window.name.clone(), fate: Fate::IsDropped, why: String::new() });
    }
}

fn changes(old: &WindowSpec, new: &WindowSpec) -> Vec<&'static str> {
    differing!(old, new,
        every => "every", period => "period", align => "align", by => "by", fields => "fields", filter => "filters",
        aggregates => "aggregates", name_override => "name_override", time_is_end => "time", lateness => "lateness",
        allowed_lateness => "allowed_lateness", reemit_every => "reemit_every", drop_original => "drop_original",
        result_fields => "result_fields",
    )
}

fn alerts(old: &EngineSpec, new: &EngineSpec, edits: &mut Vec<Edit>) {
    for alert in &new.alerts {
        let before = old.alerts.iter().find(|a| a.name == alert.name);
        let (fate, mut why) = match before {
            Some(before) if alert_meaning(before, old) == alert_meaning(alert, new) => (Fate::Keeps, alert_changes(before, alert)),
            Some(before) => {
                let mut changed = alert_changes(before, alert);
                if window_name(before, old) != window_name(alert, new) {
                    changed.push("window");
                }
                (Fate::StartsAnew, changed)
            }
            None => (Fate::IsNew, Vec::new()),
        };
        let anew = |name: &str| edits.iter().any(|e| e.kind == "window" && e.name == name && e.fate == Fate::StartsAnew);
        if fate == Fate::Keeps && window_name(alert, new).is_some_and(anew) {
            why.push("its window starts anew");
        }
        edits.push(Edit { kind: "alert", name: alert.name.clone(), fate, why: why.join(", ") });
    }
    for alert in old.alerts.iter().filter(|a| !new.alerts.iter().any(|n| n.name == a.name)) {
        edits.push(Edit { kind: "alert", name: alert.name.clone(), fate: Fate::IsDropped, why: "what fires is never resolved".into() });
    }
}

/// The window an alert reads.
pub(super) fn window_name<'a>(alert: &AlertSpec, spec: &'a EngineSpec) -> Option<&'a str> {
    alert.window.and_then(|w| spec.windows.get(w)).map(|w| w.name.as_str())
}

fn alert_changes(old: &AlertSpec, new: &AlertSpec) -> Vec<&'static str> {
    differing!(old, new,
        when => "when", clear => "clear", by => "by", filter => "filters", for_ => "for", keep => "keep", severity => "severity",
        edge_actions => "actions", level_actions => "actions",
    )
}
