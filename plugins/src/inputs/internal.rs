//! Publishes the agent's own counters as points, as Telegraf's input of that name does.

use std::sync::Arc;

use weir_plugin_api::{
    options::Section,
    plugin::{AnyInput, BoxFuture, BuildContext, BuiltInput, InputContext, InputEntry, InternalPoint, PluginError, PolledInput},
    value::Value,
};

weir_plugin_api::options! {
    /// Options of `internal`: it has none.
    pub struct Options {}
}

/// The registry's entry. Telegraf's memory statistics are those of a runtime that is not here.
pub static ENTRY: InputEntry = InputEntry {
    name: "internal",
    about: "the agent's own counters",
    specs: Options::specs,
    unsupported: &["collect_memstats", "collect_gostats", "per_instance"],
    build,
};

fn build(section: &Section<'_>, context: &BuildContext) -> Option<BuiltInput> {
    Options::read(section)?;
    let input = Internal { counters: Arc::clone(&context.internal) };
    Some(BuiltInput { input: AnyInput::Polled(Box::new(input)), claims: Vec::new() })
}

struct Internal {
    counters: Arc<dyn Fn() -> Vec<InternalPoint> + Send + Sync>,
}

impl PolledInput for Internal {
    fn gather<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(async move {
            for point in (self.counters)() {
                let tags: Vec<(&str, &str)> = point.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                let mut writer = context.collector.point(&point.measurement, &tags, None);
                for (name, value) in &point.fields {
                    // Signed as in Telegraf: InfluxDB 1.x has no other integers.
                    writer.field(name, Value::Int(i64::try_from(*value).unwrap_or(i64::MAX)));
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use weir_plugin_api::{
        options::{Diagnostics, Item, Node, Place, Table},
        position::{Position, Resume},
        testing::{collector, context},
    };

    use super::*;

    fn build_with(table: &Table, diagnostics: &Diagnostics) -> Option<BuiltInput> {
        let section = Section::new("inputs.internal", table, Place::default(), diagnostics);
        let build = BuildContext {
            name: "internal".into(),
            interval: std::time::Duration::from_secs(1),
            internal: Arc::new(|| {
                vec![InternalPoint {
                    measurement: "internal_gather".into(),
                    tags: vec![("input".into(), "mock".into())],
                    fields: vec![("metrics_gathered".into(), 7), ("late".into(), u64::MAX)],
                }]
            }),
            directory: std::path::PathBuf::new(),
        };
        let built = (ENTRY.build)(&section, &build);
        section.finish(ENTRY.unsupported);
        built
    }

    #[tokio::test]
    async fn counters_become_points() {
        let built = build_with(&Table::default(), &Diagnostics::default()).unwrap();
        let AnyInput::Polled(mut input) = built.input else { panic!("it is polled") };
        let (collector, mut receiver) = collector();
        let mut context = context(collector, Resume::default());
        input.gather(&mut context).await.unwrap();
        context.collector.try_flush(Position::None).unwrap();
        assert_eq!(receiver.take(), ["internal_gather,input=mock metrics_gathered=7i,late=9223372036854775807i ?"]);
    }

    #[test]
    fn telegrafs_memory_statistics_are_refused_by_name() {
        let node = Node { place: Place::default(), item: Item::Bool(true), secret: false };
        let table = Table { entries: vec![("collect_memstats".into(), Place::default(), node)] };
        let diagnostics = Diagnostics::default();
        build_with(&table, &diagnostics);
        assert!(diagnostics.take()[0].message.contains("does not support"));
    }
}
