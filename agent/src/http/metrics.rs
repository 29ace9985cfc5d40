//! The report in the Prometheus text format (version 0.0.4).

use std::fmt::Write;

use serde_json::Value;

use super::report::Report;

/// Metrics of every number in the report: `weir_<section>_<field>` with the section's name as label.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let Ok(Value::Object(root)) = serde_json::to_value(report) else { return out };
    for (section, label) in [("inputs", "input"), ("operators", "operator"), ("outputs", "output")] {
        if let Some(rows) = root.get(section).and_then(Value::as_array) {
            table(&mut out, label, rows);
        }
    }
    for section in ["engine", "store", "writes", "damage"] {
        if let Some(row) = root.get(section).and_then(Value::as_object) {
            for (field, value) in row {
                if let Some(number) = number(value) {
                    head(&mut out, section, field);
                    let _ = writeln!(out, "{} {number}", name(section, field));
                }
            }
        }
    }
    let _ = writeln!(out, "# TYPE weir_storage_failed gauge\nweir_storage_failed {}", u8::from(report.storage_failed.is_some()));
    let _ = writeln!(out, "# TYPE weir_residues gauge\nweir_residues {}", report.residues.len());
    out
}

/// Rows of one kind: all samples of a metric stand together, as the format asks.
fn table(out: &mut String, label: &str, rows: &[Value]) {
    let Some(first) = rows.first().and_then(Value::as_object) else { return };
    for field in first.keys().filter(|k| *k != "name") {
        let samples: Vec<(&str, String)> =
            rows.iter().filter_map(|row| Some((row.get("name")?.as_str()?, number(row.get(field)?)?))).collect();
        if samples.is_empty() {
            continue;
        }
        head(out, label, field);
        for (row, number) in samples {
            let _ = writeln!(out, "{}{{{label}=\"{}\"}} {number}", name(label, field), escape(row));
        }
    }
}

/// What goes up and down; everything else counts.
fn is_gauge(field: &str) -> bool {
    [
        "in_ring",
        "held",
        "waiting_",
        "in_flight",
        "lag_",
        "journal_",
        "outbox_",
        "failing",
        "held_until",
        "bound_by_budget",
        "last_",
        "minute_",
        "day_",
        "endurance_",
        "life_",
        "dedup_entries",
    ]
    .iter()
    .any(|g| field.starts_with(g))
}

fn name(section: &str, field: &str) -> String {
    if is_gauge(field) { format!("weir_{section}_{field}") } else { format!("weir_{section}_{field}_total") }
}

fn head(out: &mut String, section: &str, field: &str) {
    let kind = if is_gauge(field) { "gauge" } else { "counter" };
    let _ = writeln!(out, "# TYPE {} {kind}", name(section, field));
}

fn number(value: &Value) -> Option<String> {
    match value {
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(u8::from(*b).to_string()),
        _ => None,
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
