//! What every part of the check shares: where findings go, the files for naming second places, the world.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use weir_plugin_api::options::{Diagnostic, Diagnostics, Item, Place, Section, Severity, Table};

use super::{
    Environment,
    merge::Single,
    registry::Registry,
    report::{File, name_place},
};

/// Shared by every part of the check.
pub struct Context<'a> {
    /// Where findings go.
    pub diagnostics: Diagnostics,
    /// The files.
    pub files: &'a [File],
    /// The world.
    pub environment: &'a dyn Environment,
    /// The plugins there are.
    pub registry: &'a Registry,
    /// A file could not be read or parsed: what others refer to may stand in it, so unknown names are not reported.
    pub incomplete: bool,
}

impl Context<'_> {
    /// A finding that refuses the configuration.
    pub fn error(&self, place: Place, message: impl Into<String>, help: Option<String>) {
        self.diagnostics.push(Diagnostic { severity: Severity::Error, place, message: message.into(), help, secret: false });
    }

    /// A finding that does not.
    pub fn warn(&self, place: Place, message: impl Into<String>, help: Option<String>) {
        self.diagnostics.push(Diagnostic { severity: Severity::Warning, place, message: message.into(), help, secret: false });
    }

    /// `file:line` of a place.
    pub fn name(&self, place: &Place) -> String {
        name_place(self.files, place)
    }

    /// The section of a table of which there is one.
    pub fn section<'t>(&self, path: &str, single: &'t Single) -> Section<'t> {
        Section::new(path, &single.table, single.place.clone(), &self.diagnostics)
    }

    /// `item` as a table, or an error that shows how one is written.
    pub fn table(&self, path: &str, place: Place, item: Item, open: &str, close: &str) -> Option<Table> {
        match item {
            Item::Table(table) => Some(table),
            other => {
                let message = format!("`{path}` is a table, this is {}", other.type_name());
                let written = if close.starts_with('N') { format!("{open}{close}") } else { format!("{open}{path}{close}") };
                self.error(place, message, Some(format!("write it as {written}")));
                None
            }
        }
    }
}

/// Names that must differ, with where each stands.
#[derive(Default)]
pub struct Names {
    taken: RefCell<BTreeMap<String, Place>>,
}

impl Names {
    /// Takes a name for the thing at `place`; an error when somebody has it.
    pub fn take(&self, kind: &str, name: &str, place: &Place, context: &Context<'_>) {
        let before = self.taken.borrow().get(name).cloned();
        match before {
            Some(before) => {
                let message = format!("{kind} \"{name}\" is there already, at {}", context.name(&before));
                context.error(place.clone(), message, Some("give one of them another name: state and counters are kept under it".into()));
            }
            None => {
                self.taken.borrow_mut().insert(name.to_owned(), place.clone());
            }
        }
    }

    /// The first free one of `name`, `name#2`, `name#3`, ….
    pub fn number(&self, name: &str, place: &Place) -> String {
        let mut taken = self.taken.borrow_mut();
        let mut candidate = name.to_owned();
        let mut number = 1;
        while taken.contains_key(&candidate) {
            number += 1;
            candidate = format!("{name}#{number}");
        }
        taken.insert(candidate.clone(), place.clone());
        candidate
    }
}

/// A name of an input, window, alert or such: not empty, no control characters, not endless.
pub fn check_name(section: &Section<'_>, key: &str, name: &str) {
    if name.is_empty() {
        section.error_at(key, format!("`{key}` can't be empty"));
    } else if name.len() > 128 || name.chars().any(char::is_control) {
        section.error_at(key, format!("`{key}` is a name: at most 128 bytes, no control characters"));
    }
}

/// Nanoseconds as the engine counts them; what does not fit is reported.
pub fn nanos(section: &Section<'_>, key: &str, duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or_else(|_| {
        section.error_at(key, format!("`{key}` is longer than 292 years"));
        i64::MAX
    })
}

/// The same for a duration that must not be zero.
pub fn positive_nanos(section: &Section<'_>, key: &str, duration: Duration) -> i64 {
    if duration.is_zero() {
        section.error_at(key, format!("`{key}` can't be zero"));
        return 1;
    }
    nanos(section, key, duration)
}
