//! `[[windows]]` and `[[alerts]]`: what the engine computes.

use std::{collections::BTreeMap, time::Duration};

use weir_engine::{
    operators::expr::Expr,
    record::Condition as AgentCondition,
    spec::{AgentAlertSpec, Aggregate, AlertSpec, Limits, WindowSpec},
};
use weir_plugin_api::{
    filter::Filter,
    options::{Diagnostic, FromNode, Item, Node, Place, Section, Severity, nearest, quote},
};

use super::{
    context::{Context, Names, check_name, nanos, positive_nanos},
    literal,
    merge::{ALERT_LOG, Merged},
    sections::AgentTable,
};

weir_plugin_api::options! {
    /// `[[windows]]`.
    pub struct WindowTable {
        /// Its name: state is kept under it.
        name: String,
        /// Distance between the starts of windows.
        every: Duration,
        /// Length of a window, a whole multiple of `every`. Absent: `every`.
        period: Option<Duration> = None,
        /// Shifts the windows, which are aligned to 1970-01-01 UTC.
        align: Duration = Duration::ZERO,
        /// Tags that make a group. Absent: one group per series; []: one group.
        by: Option<Vec<String>> = None,
        /// Patterns of the fields it takes; empty: every field.
        fields: Vec<String> = Vec::new(),
        /// What is computed: count, sum, mean, min, max, first, last, range, stddev, variance, p1 to p99, p999.
        aggregates: Vec<AggregateWord> = vec![
            AggregateWord(Aggregate::Count),
            AggregateWord(Aggregate::Mean),
            AggregateWord(Aggregate::Min),
            AggregateWord(Aggregate::Max),
        ],
        /// How far out of order points may come before a window is closed.
        lateness: Duration = Duration::from_secs(5),
        /// How long a closed window can still be corrected.
        allowed_lateness: Duration = Duration::ZERO,
        /// A corrected window is sent again at most this often.
        reemit_every: Duration = Duration::from_secs(5),
        /// Points it took are not sent on as they came.
        drop_original: bool = true,
        /// Measurement of the results. Absent: as it was.
        name_override: Option<String> = None,
        /// Adds the fields `complete` and `revision`.
        result_fields: bool = false,
        /// Which end of the window is the time of its results.
        time: WindowTime = WindowTime::Start,
    }
}

weir_plugin_api::choice! {
    /// Which end of the window is the time of its results.
    pub enum WindowTime {
        /// Its start.
        Start = "start",
        /// Its end.
        End = "end",
    }
}

weir_plugin_api::options! {
    /// `[[alerts]]`.
    pub struct AlertTable {
        /// Its name: state is kept under it, and it is the tag `alert`.
        name: String,
        /// Fires while this holds, for example "temperature > 80".
        when: Condition,
        /// Ends when this holds. Absent: when `when` no longer does.
        clear: Option<Condition> = None,
        /// `when` must hold this long first.
        r#for: Duration = Duration::ZERO,
        /// `clear` must hold this long first.
        keep: Duration = Duration::ZERO,
        /// Tags that make a group, each with a state of its own. Absent: one group per series; []: one group.
        by: Option<Vec<String>> = None,
        /// Name of the window whose results it reads. Absent: points as they come.
        window: Option<String> = None,
        /// Written into the tag `severity`.
        severity: String = "warning".into(),
        /// Aliases of the actions that are told; an alert without any is a line in the log.
        actions: Vec<String> = Vec::new(),
    }
}

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition(String);

impl FromNode for Condition {
    const KIND: &'static str = "expression";

    fn from_node(node: &Node, section: &Section<'_>, key: &str) -> Result<Self, String> {
        String::from_node(node, section, key).map(Self)
    }

    fn to_toml(&self) -> String {
        quote(&self.0)
    }
}

/// The word for an aggregate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AggregateWord(pub Aggregate);

const AGGREGATES: [(&str, Aggregate); 12] = [
    ("count", Aggregate::Count),
    ("sum", Aggregate::Sum),
    ("mean", Aggregate::Mean),
    ("min", Aggregate::Min),
    ("max", Aggregate::Max),
    ("first", Aggregate::First),
    ("last", Aggregate::Last),
    ("range", Aggregate::Range),
    ("stddev", Aggregate::Stddev),
    ("stdev", Aggregate::Stddev),
    ("variance", Aggregate::Variance),
    ("s2", Aggregate::Variance),
];

impl FromNode for AggregateWord {
    const KIND: &'static str = "aggregate";

    fn from_node(node: &Node, section: &Section<'_>, key: &str) -> Result<Self, String> {
        let word = String::from_node(node, section, key)?;
        if let Some((_, aggregate)) = AGGREGATES.iter().find(|(name, _)| *name == word) {
            return Ok(Self(*aggregate));
        }
        if let Some(tenths) = percentile(&word) {
            return Ok(Self(Aggregate::Percentile(tenths)));
        }
        Err(match word.as_str() {
            "median" => "the median is written p50".to_owned(),
            _ => match nearest(&word, AGGREGATES.iter().map(|(name, _)| *name)) {
                Some(near) => format!("there is no such aggregate; did you mean \"{near}\"?"),
                None => {
                    "there is no such aggregate; there are count, sum, mean, min, max, first, last, range, stddev, variance, p95 …".into()
                }
            },
        })
    }

    fn to_toml(&self) -> String {
        match self.0 {
            Aggregate::Percentile(tenths) if tenths % 10 == 0 => format!("\"p{}\"", tenths / 10),
            Aggregate::Percentile(tenths) => format!("\"p{tenths}\""),
            simple => {
                let name = AGGREGATES.iter().find(|(_, aggregate)| *aggregate == simple).map_or("", |(name, _)| name);
                format!("\"{name}\"")
            }
        }
    }
}

/// `p95` and `p95.5` in percent, `p955` in tenths; in tenths of a percent.
fn percentile(word: &str) -> Option<u16> {
    let digits = word.strip_prefix('p')?;
    let (whole, tenth) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !digits.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let whole_number: u16 = whole.parse().ok()?;
    let tenths = match (whole.len(), tenth.len()) {
        (1 | 2, 0) => whole_number * 10,
        (1 | 2, 1) => whole_number * 10 + tenth.parse::<u16>().ok()?,
        (3, 0) if whole_number == 100 => 1000,
        (3, 0) => whole_number,
        _ => return None,
    };
    (tenths > 0 && tenths <= 1000).then_some(tenths)
}

/// Reads every `[[windows]]`.
pub fn windows(merged: &Merged, limits: &Limits, context: &Context<'_>) -> Vec<WindowSpec> {
    let names = Names::default();
    let read = |single| {
        let section = context.section("windows", single);
        let spec = window(&section, &names, limits, context);
        section.finish(&[]);
        spec
    };
    merged.windows.iter().filter_map(read).collect()
}

fn window(section: &Section<'_>, names: &Names, limits: &Limits, context: &Context<'_>) -> Option<WindowSpec> {
    let filter = Filter::read(section);
    let table = WindowTable::read(section)?;
    check_name(section, "name", &table.name);
    names.take("a window named", &table.name, name_place(section), context);
    let every = positive_nanos(section, "every", table.every);
    let period = table.period.map_or(every, |period| positive_nanos(section, "period", period));
    if period % every != 0 {
        let nearest = (period + every / 2) / every * every;
        let nearest = weir_plugin_api::units::format_duration(Duration::from_nanos(nearest.max(every).unsigned_abs()));
        section.error_help("period", "`period` is not a whole multiple of `every`", format!("the nearest is \"{nearest}\""));
    }
    let lateness = nanos(section, "lateness", table.lateness);
    let allowed_lateness = nanos(section, "allowed_lateness", table.allowed_lateness);
    let panes = (period / every).saturating_add(lateness.saturating_add(allowed_lateness) / every).saturating_add(1);
    if !table.every.is_zero() && usize::try_from(panes).is_ok_and(|panes| panes > limits.panes_per_group_max) {
        let message = format!("a group of this window needs {panes} panes, [limits] panes_per_group_max is {}", limits.panes_per_group_max);
        section.error_help("every", message, "make `every` longer, or `period` and the latenesses shorter, or raise the limit");
    }
    let mut aggregates: Vec<Aggregate> = Vec::new();
    for word in &table.aggregates {
        if aggregates.contains(&word.0) {
            section.error_at("aggregates", format!("{} is named twice", word.to_toml()));
        }
        aggregates.push(word.0);
    }
    if aggregates.is_empty() {
        section.error_at("aggregates", "a window without aggregates computes nothing");
    }
    Some(WindowSpec {
        name: table.name,
        every,
        period,
        align: i64::try_from(table.align.as_nanos()).unwrap_or(i64::MAX) % every,
        by: table.by.map(sorted),
        fields: table.fields,
        filter,
        aggregates,
        lateness,
        allowed_lateness,
        reemit_every: nanos(section, "reemit_every", table.reemit_every),
        drop_original: table.drop_original,
        name_override: table.name_override.filter(|name| !name.is_empty()),
        result_fields: table.result_fields,
        time_is_end: table.time == WindowTime::End,
    })
}

fn name_place<'s>(section: &'s Section<'_>) -> &'s Place {
    section.node("name").map_or_else(|| section.place(), |node| &node.place)
}

fn sorted(mut tags: Vec<String>) -> Vec<String> {
    tags.sort();
    tags.dedup();
    tags
}

/// Actions as alerts name them.
#[derive(Default)]
pub struct ActionNames {
    /// Alias → index of the engine's output.
    pub edge: BTreeMap<String, usize>,
    /// Alias → index of the level action.
    pub level: BTreeMap<String, usize>,
    /// Aliases of actions that could not be built: no second error for those.
    pub failed: Vec<String>,
}

/// Reads every `[[alerts]]`.
pub fn alerts(merged: &Merged, windows: &[WindowSpec], actions: &ActionNames, context: &Context<'_>) -> Vec<AlertSpec> {
    let names = Names::default();
    let read = |single| {
        let section = context.section("alerts", single);
        let spec = alert(&section, merged, &names, windows, actions, context);
        section.finish(&[]);
        spec
    };
    merged.alerts.iter().filter_map(read).collect()
}

/// The part of `[agent]` that is about its own alerts, once the actions are known.
pub fn agent_alerts(merged: &Merged, agent: &AgentTable, actions: &ActionNames, context: &Context<'_>) -> AgentAlertSpec {
    let section = context.section("agent", &merged.agent);
    let (edge_actions, level_actions) = find_actions(&section, "alert_actions", &agent.alert_actions, actions, context);
    AgentAlertSpec { severity: agent.alert_severity.clone(), edge_actions, level_actions }
}

fn alert(
    section: &Section<'_>,
    merged: &Merged,
    names: &Names,
    windows: &[WindowSpec],
    actions: &ActionNames,
    context: &Context<'_>,
) -> Option<AlertSpec> {
    let filter = Filter::read(section);
    let table = AlertTable::read(section)?;
    check_name(section, "name", &table.name);
    check_name(section, "severity", &table.severity);
    if AgentCondition::ALL.iter().any(|condition| condition.name() == table.name) {
        section.error_at("name", format!("`name`: \"{}\" is an alert the agent raises itself", table.name));
    }
    names.take("an alert named", &table.name, name_place(section), context);
    let when = expression(section, "when", &table.when, context);
    let clear = table.clear.as_ref().map(|clear| expression(section, "clear", clear, context));
    let window = table.window.as_ref().map(|name| find_window(section, name, merged, windows, context));
    if let Some(window) = window.flatten().and_then(|index| windows.get(index)) {
        let conditions = [("when", when.as_ref()), ("clear", clear.as_ref().and_then(Option::as_ref))];
        conditions.into_iter().for_each(|(key, expr)| warn_of_raw_fields(section, key, expr, window));
    }
    let log = actions.edge.get(ALERT_LOG).filter(|_| table.actions.is_empty()).map(|_| vec![ALERT_LOG.to_owned()]);
    let (edge_actions, level_actions) = find_actions(section, "actions", log.as_ref().unwrap_or(&table.actions), actions, context);
    Some(AlertSpec {
        name: table.name,
        when: when?,
        clear: match clear {
            Some(clear) => Some(clear?),
            None => None,
        },
        for_: nanos(section, "for", table.r#for),
        keep: nanos(section, "keep", table.keep),
        by: table.by.map(sorted),
        window: match window {
            Some(window) => Some(window?),
            None => None,
        },
        filter,
        severity: table.severity,
        edge_actions,
        level_actions,
    })
}

/// Parses a condition; an error points at the character inside the literal.
fn expression(section: &Section<'_>, key: &'static str, condition: &Condition, context: &Context<'_>) -> Option<Expr> {
    let error = match Expr::parse(&condition.0) {
        Ok(expr) => return Some(expr),
        Err(error) => error,
    };
    let node = section.node(key)?;
    let mut place = node.place.clone();
    // What variables put in is not in the file, and an error may quote it.
    if node.secret {
        let message = format!("`{key}`: what was substituted can't be read as expression");
        section.diagnostics().push(Diagnostic { severity: Severity::Error, place, message, help: None, secret: true });
        return None;
    }
    if let Some(literal) = context.files.get(place.file).and_then(|file| file.text.get(place.span.clone())) {
        let within = literal::within(literal, error.offset..error.offset + error.length);
        place.span = place.span.start + within.start..place.span.start + within.end;
    }
    context.error(place, format!("`{key}`: {}", error.message), error.help);
    None
}

/// A window's results have fields of its own: a condition on others is never defined.
fn warn_of_raw_fields(section: &Section<'_>, key: &str, expr: Option<&Expr>, window: &WindowSpec) {
    let has = |aggregate: &str| match percentile(aggregate) {
        Some(tenths) => window.aggregates.contains(&Aggregate::Percentile(tenths)),
        None => AGGREGATES.iter().any(|(name, simple)| *name == aggregate && window.aggregates.contains(simple)),
    };
    let is_result = |field: &str| {
        field.rsplit_once('_').is_some_and(|(_, aggregate)| has(aggregate))
            || (window.result_fields && matches!(field, "complete" | "revision"))
    };
    for field in expr.map(Expr::fields).unwrap_or_default().iter().filter(|field| !is_result(field)) {
        let example = window.aggregates.first().map_or_else(String::new, |a| AggregateWord(*a).to_toml().replace('"', ""));
        section.warn_at(
            key,
            format!("`{key}`: the results of window \"{}\" have no field `{field}`, but such as `{field}_{example}`", window.name),
        );
    }
}

fn find_window(section: &Section<'_>, name: &str, merged: &Merged, windows: &[WindowSpec], context: &Context<'_>) -> Option<usize> {
    let found = windows.iter().position(|window| window.name == name);
    // One that is written but wrong has been reported.
    let written = |single: &super::merge::Single| matches!(single.table.get("name").map(|n| &n.item), Some(Item::Text(n)) if n == name);
    if found.is_none() && !context.incomplete && !merged.windows.iter().any(written) {
        let names: Vec<&str> = windows.iter().map(|window| window.name.as_str()).collect();
        unknown(section, section.node("window"), "window", name, &names);
    }
    found
}

fn find_actions(
    section: &Section<'_>,
    key: &'static str,
    wanted: &[String],
    actions: &ActionNames,
    context: &Context<'_>,
) -> (u64, Vec<usize>) {
    let (mut edge, mut level) = (0, Vec::new());
    for (i, name) in wanted.iter().enumerate() {
        if let Some(index) = actions.edge.get(name) {
            // More than 64 is reported where outputs are counted.
            edge |= 1u64.checked_shl(u32::try_from(*index).unwrap_or(u32::MAX)).unwrap_or(0);
        } else if let Some(index) = actions.level.get(name) {
            if !level.contains(index) {
                level.push(*index);
            }
        } else if !context.incomplete && !actions.failed.contains(name) {
            let names: Vec<&str> = actions.edge.keys().chain(actions.level.keys()).chain(&actions.failed).map(String::as_str).collect();
            let node = section.node(key).and_then(|node| match &node.item {
                Item::Array(items) => items.get(i),
                _ => None,
            });
            unknown(section, node, "action", name, &names);
        }
    }
    (edge, level)
}

fn unknown(section: &Section<'_>, node: Option<&Node>, kind: &str, name: &str, names: &[&str]) {
    let secret = node.is_some_and(|node| node.secret);
    let place = node.map_or_else(|| section.place().clone(), |node| node.place.clone());
    let message = if secret { format!("there is no {kind} of this name") } else { format!("there is no {kind} \"{name}\"") };
    let help = match nearest(name, names.iter().copied()) {
        Some(near) if !secret => format!("did you mean \"{near}\"?"),
        _ if names.is_empty() => format!("define it with [[{kind}s{}]]", if kind == "action" { ".webhook" } else { "" }),
        _ => format!("there are {}", names.join(", ")),
    };
    section.diagnostics().push(Diagnostic { severity: Severity::Error, place, message, help: Some(help), secret });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_percent_or_tenths() {
        assert_eq!(percentile("p95"), Some(950));
        assert_eq!(percentile("p99.9"), Some(999));
        assert_eq!(percentile("p999"), Some(999));
        assert_eq!(percentile("p5"), Some(50));
        assert_eq!(percentile("p100"), Some(1000));
        for wrong in ["p", "p0", "p-1", "p1000", "p101.5", "p95.55", "pp", "95"] {
            assert_eq!(percentile(wrong), None, "{wrong}");
        }
    }
}
