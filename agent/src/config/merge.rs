//! Several files become one configuration: tables are joined key by key, plugins, windows and alerts follow one another.
//!
//! A key that two files set differently is an error that names both, not a matter of which file comes last: on a gateway the files come
//! from different people.

use weir_plugin_api::options::{Item, Node, Place, Table, nearest};

use super::{context::Context, telegraf};

/// `[[inputs.NAME]]` and its like.
pub struct Plugin {
    /// Its name.
    pub name: String,
    /// Its header.
    pub place: Place,
    /// Its options.
    pub table: Table,
}

/// A table of which there is one, and where it stands first.
#[derive(Default)]
pub struct Single {
    /// Its header, if it is written at all.
    pub place: Place,
    /// Its options.
    pub table: Table,
}

/// Everything, by its kind and in the order of the files.
#[derive(Default)]
pub struct Merged {
    /// `[agent]`.
    pub agent: Single,
    /// `[global_tags]`.
    pub global_tags: Single,
    /// `[time]`.
    pub time: Single,
    /// `[limits]`.
    pub limits: Single,
    /// `[storage]`.
    pub storage: Single,
    /// `[status]`.
    pub status: Single,
    /// `[[inputs.…]]`.
    pub inputs: Vec<Plugin>,
    /// `[[outputs.…]]`.
    pub outputs: Vec<Plugin>,
    /// `[[actions.…]]`.
    pub actions: Vec<Plugin>,
    /// `[[windows]]`.
    pub windows: Vec<Single>,
    /// `[[alerts]]`.
    pub alerts: Vec<Single>,
}

const TABLES: [&str; 11] =
    ["agent", "global_tags", "time", "limits", "storage", "status", "inputs", "outputs", "actions", "windows", "alerts"];

/// Joins the files' tables.
pub fn merge(roots: Vec<Table>, context: &Context<'_>) -> Merged {
    let mut merged = Merged::default();
    for root in roots {
        for (key, place, node) in root.entries {
            match key.as_str() {
                "agent" => single(&mut merged.agent, &key, node, context),
                "global_tags" => single(&mut merged.global_tags, &key, node, context),
                "time" => single(&mut merged.time, &key, node, context),
                "limits" => single(&mut merged.limits, &key, node, context),
                "storage" => single(&mut merged.storage, &key, node, context),
                "status" => single(&mut merged.status, &key, node, context),
                "inputs" => plugins(&mut merged.inputs, &key, node, context),
                "outputs" => plugins(&mut merged.outputs, &key, node, context),
                "actions" => plugins(&mut merged.actions, &key, node, context),
                "windows" => list(&mut merged.windows, &key, node, context),
                "alerts" => list(&mut merged.alerts, &key, node, context),
                _ => foreign(&key, place, &node, context),
            }
        }
    }
    let order = |p: &Place| (p.file, p.span.start);
    for plugins in [&mut merged.inputs, &mut merged.outputs, &mut merged.actions] {
        plugins.sort_by_key(|p| order(&p.place));
    }
    log_what_tells_nobody(&mut merged, context);
    merged
}

/// Alias of the log action that alerts without actions are told by.
pub const ALERT_LOG: &str = "alert_log";

/// Whether an alert names no action.
pub fn tells_nobody(alert: &Table) -> bool {
    alert.get("actions").is_none_or(|node| matches!(&node.item, Item::Array(actions) if actions.is_empty()))
}

/// An alert without actions is a point and a line in the log: the line comes from a log action nobody has to write.
fn log_what_tells_nobody(merged: &mut Merged, context: &Context<'_>) {
    let Some(alert) = merged.alerts.iter().find(|alert| tells_nobody(&alert.table)) else { return };
    let written = merged
        .actions
        .iter()
        .any(|action| action.table.get("alias").is_some_and(|alias| matches!(&alias.item, Item::Text(text) if text == ALERT_LOG)));
    if written || !context.registry.has("actions", "log") {
        return;
    }
    let alias = Node { place: alert.place.clone(), item: Item::Text(ALERT_LOG.into()), secret: false };
    let table = Table { entries: vec![("alias".into(), alert.place.clone(), alias)] };
    merged.actions.push(Plugin { name: "log".into(), place: alert.place.clone(), table });
}

fn single(into: &mut Single, key: &str, node: Node, context: &Context<'_>) {
    let Some(table) = context.table(key, node.place.clone(), node.item, "[", "]") else { return };
    if into.table.entries.is_empty() {
        into.place = node.place;
    }
    for (name, place, node) in table.entries {
        match into.table.entries.iter().find(|(known, _, _)| *known == name) {
            None => into.table.entries.push((name, place, node)),
            Some((_, _, before)) if before.item == node.item => {}
            Some((_, before, _)) => {
                let message = format!("`{name}` of [{key}] is set differently at {}", context.name(before));
                context.error(place, message, Some("keep one of them".into()));
            }
        }
    }
}

fn plugins(into: &mut Vec<Plugin>, kind: &str, node: Node, context: &Context<'_>) {
    let Some(table) = context.table(kind, node.place, node.item, &format!("[[{kind}."), "NAME]]") else { return };
    for (name, _, node) in table.entries {
        let path = format!("{kind}.{name}");
        let items = match node.item {
            Item::Array(items) => items,
            item => vec![Node { place: node.place, item, secret: node.secret }],
        };
        for item in items {
            let Some(table) = context.table(&path, item.place.clone(), item.item, "[[", "]]") else { continue };
            into.push(Plugin { name: name.clone(), place: item.place, table });
        }
    }
}

fn list(into: &mut Vec<Single>, key: &str, node: Node, context: &Context<'_>) {
    let items = match node.item {
        Item::Array(items) => items,
        other => {
            let message = format!("`{key}` is a list of tables, this is {}", other.type_name());
            context.error(node.place, message, Some(format!("write each as [[{key}]]")));
            return;
        }
    };
    for item in items {
        let Some(table) = context.table(key, item.place.clone(), item.item, "[[", "]]") else { continue };
        into.push(Single { place: item.place, table });
    }
}

fn foreign(key: &str, place: Place, node: &Node, context: &Context<'_>) {
    if let Some((message, help)) = telegraf::table(key) {
        let names = match &node.item {
            Item::Table(table) => table.entries.iter().map(|(_, place, _)| place.clone()).collect(),
            _ => Vec::new(),
        };
        let places = if names.is_empty() { vec![place] } else { names };
        places.into_iter().for_each(|place| context.error(place, message, Some(help.into())));
        return;
    }
    let help = nearest(key, TABLES.into_iter()).map(|near| format!("did you mean `{near}`?"));
    let message = match &node.item {
        Item::Table(_) | Item::Array(_) => format!("unknown table [{key}]"),
        _ => format!("`{key}` stands outside of any table"),
    };
    context.error(place, message, help.or_else(|| Some(format!("tables are {}", TABLES.join(", ")))));
}
