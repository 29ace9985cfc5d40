//! What a configuration would do to the state that is there: asked of the running agent, or of a state directory.

use std::{fmt::Write, path::Path};

use weir_engine::{
    operators::edit::{Fate, edits},
    spec::EngineSpec,
};

use crate::{
    cmd::{status, store::view::View},
    config::{self, System},
};

/// The configuration of the agent that runs.
///
/// # Errors
/// In words, when none answers.
pub fn running(socket: Option<&Path>) -> Result<EngineSpec, String> {
    let socket = config::control_socket(socket, &System::default())
        .ok_or_else(|| "there is no usual place for the control socket here: name it with --socket".to_owned())?;
    let text = status::get(&socket, "/configuration").map_err(|error| format!("no agent answers at {}: {error}", socket.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("the agent at {} answers with something else: {error}", socket.display()))
}

/// The configuration the state in `directory` belongs to.
///
/// # Errors
/// In words, when there is none, or it does not say.
pub fn stored(directory: &Path) -> Result<EngineSpec, String> {
    View::open(directory)?.configuration().map_err(|reason| format!("{}: {reason}", directory.display()))
}

/// A line for each part.
pub fn table(before: &EngineSpec, after: &EngineSpec) -> String {
    let edits = edits(before, after);
    let width = edits.iter().map(|e| e.name.chars().count()).max().unwrap_or(0);
    let mut out = String::from("\nwhat becomes of the state:\n");
    for edit in &edits {
        let why = match (edit.why.as_str(), edit.fate) {
            ("", _) => String::new(),
            (why, Fate::StartsAnew) => format!(": {why}"),
            (why, _) => format!(" ({why})"),
        };
        let _ = writeln!(out, "{:<6}  {:<width$}  {}{why}", edit.kind, edit.name, edit.fate.words());
    }
    out
}
