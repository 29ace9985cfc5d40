//! From a topic to what it says of a point: the `topic` tag and Telegraf's `topic_parsing`, worked out once per topic.
//!
//! Apart because it is Telegraf's semantics, and because the way of a message must only see a look-up.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weir_plugin_api::{
    collector::{Collector, Context, FieldValue},
    options::Section,
};

/// Topics remembered; beyond that the table is started anew.
const TOPICS_MAX: usize = 100_000;

/// One `[[topic_parsing]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    topic: Vec<String>,
    measurement: Option<usize>,
    tags: Vec<(usize, String)>,
    fields: Vec<(usize, String, Kind)>,
}

weir_plugin_api::choice! {
    /// What a level is as a field.
    pub enum Kind {
        /// A signed integer.
        Int = "int",
        /// An unsigned integer.
        Uint = "uint",
        /// A float.
        Float = "float",
        /// Text.
        Text = "string",
    }
}

weir_plugin_api::options! {
    /// Options of one `[[topic_parsing]]`: patterns of as many levels as `topic`, `_` where a level is not wanted.
    pub struct RuleOptions {
        /// Topics it is about; `+` stands for one level, `#` at the end for any number.
        topic: String,
        /// The level that becomes the measurement: its place is that of the word that is not `_`.
        measurement: String = String::new(),
        /// Levels that become tags: the name of the tag in the place of the level.
        tags: String = String::new(),
        /// Levels that become fields: the name of the field in the place of the level.
        fields: String = String::new(),
        /// Types of such fields, `int`, `uint` or `float`; the others are text.
        types: BTreeMap<String, Kind> = BTreeMap::new(),
    }
}

impl Rule {
    /// Reads and checks one.
    pub fn read(section: Section<'_>) -> Option<Self> {
        let options = RuleOptions::read(&section);
        let rule = options.and_then(|options| Self::checked(&section, &options));
        section.finish(&[]);
        rule
    }

    fn checked(section: &Section<'_>, options: &RuleOptions) -> Option<Self> {
        let topic: Vec<String> = options.topic.split('/').map(str::to_owned).collect();
        if let Some(at) = topic.iter().position(|l| l == "#")
            && at + 1 != topic.len()
        {
            section.error_at("topic", "`topic`: `#` can only be the last level");
            return None;
        }
        let levels = |key: &str, pattern: &str| -> Option<Vec<(usize, String)>> {
            let pattern: Vec<&str> = pattern.split('/').collect();
            if pattern.len() > topic.len() || (pattern.len() != topic.len() && pattern.len() != 1) {
                section.error_at(key, format!("`{key}` has {} levels, `topic` has {}", pattern.len(), topic.len()));
                return None;
            }
            Some(pattern.iter().enumerate().filter(|(_, l)| !matches!(**l, "_" | "" | "#")).map(|(i, l)| (i, (*l).to_owned())).collect())
        };
        let (measurement, tags) = (levels("measurement", &options.measurement), levels("tags", &options.tags));
        let fields = levels("fields", &options.fields);
        let (measurement, tags, fields) = (measurement?, tags?, fields?);
        if let Some(name) = options.types.keys().find(|name| !fields.iter().any(|(_, field)| field == *name)) {
            section.error_at("types", format!("`types` names `{name}`, which is not among `fields`"));
            return None;
        }
        let kind = |name: &String| options.types.get(name).copied().unwrap_or(Kind::Text);
        let fields = fields.into_iter().map(|(i, name)| (i, kind(&name), name)).map(|(i, kind, name)| (i, name, kind)).collect();
        if measurement.len() > 1 {
            section.error_at("measurement", "`measurement` names more than one level");
            return None;
        }
        Some(Self { measurement: measurement.first().map(|(i, _)| *i), tags, fields, topic })
    }

    fn matches(&self, levels: &[&str]) -> bool {
        for (i, pattern) in self.topic.iter().enumerate() {
            match (pattern.as_str(), levels.get(i)) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (text, Some(level)) if text == *level => {}
                _ => return false,
            }
        }
        levels.len() == self.topic.len()
    }

    fn add_fields(&self, levels: &[&str], out: &mut Vec<(String, FieldValue)>) -> Result<(), Unreadable> {
        for (i, name, kind) in &self.fields {
            let Some(level) = levels.get(*i) else { continue };
            let value = match kind {
                Kind::Int => level.parse().ok().map(FieldValue::Int),
                Kind::Uint => level.parse().ok().map(FieldValue::Uint),
                Kind::Float => level.parse().ok().filter(|v: &f64| v.is_finite()).map(FieldValue::Float),
                Kind::Text => Some(FieldValue::Text((*level).to_owned())),
            };
            out.push((name.clone(), value.ok_or(Unreadable { level: i + 1, kind: kind.as_str() })?));
        }
        Ok(())
    }
}

/// What was learnt of each topic.
pub struct Topics {
    tag: String,
    rules: Vec<Rule>,
    known: HashMap<Box<[u8]>, Result<Context, Unreadable>, FixedState>,
    first: Option<Context>,
}

/// A level that is not of the type its field has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("level {level} of the topic is no {kind}")]
pub struct Unreadable {
    level: usize,
    kind: &'static str,
}

impl Topics {
    /// Puts the topic into the tag `tag` (none if empty) and applies every rule that matches.
    pub fn new(tag: String, rules: Vec<Rule>) -> Self {
        Self { tag, rules, known: HashMap::with_hasher(FixedState::default()), first: None }
    }

    /// Forgets what was learnt: contexts belong to one collector.
    pub fn reset(&mut self) {
        self.known.clear();
        self.first = None;
    }

    /// The collector's context for a topic.
    ///
    /// # Errors
    /// A level that a rule wants as a number and that is none.
    #[inline]
    pub fn context(&mut self, topic: &[u8], collector: &mut Collector) -> Result<Context, Unreadable> {
        match self.known.get(topic) {
            Some(context) => context.clone(),
            None => self.learn(topic, collector),
        }
    }

    #[cold]
    fn learn(&mut self, bytes: &[u8], collector: &mut Collector) -> Result<Context, Unreadable> {
        let topic = String::from_utf8_lossy(bytes);
        let levels: Vec<&str> = topic.split('/').collect();
        let mut tags: Vec<(&str, &str)> = Vec::new();
        let (mut measurement, mut fields) = (None, Ok(Vec::new()));
        for rule in self.rules.iter().filter(|r| r.matches(&levels)) {
            measurement = rule.measurement.and_then(|i| levels.get(i).copied()).or(measurement);
            tags.extend(rule.tags.iter().filter_map(|(i, name)| Some((name.as_str(), levels.get(*i).copied()?))));
            if let Ok(all) = &mut fields
                && let Err(error) = rule.add_fields(&levels, all)
            {
                fields = Err(error);
            }
        }
        if !self.tag.is_empty() {
            tags.push((&self.tag, &topic));
        }
        let context = collector.context(&tags, measurement, Some(&topic));
        // Every topic is a context of its own: the first one coming again means that the collector has started its table anew.
        if self.first == Some(context) || self.known.len() >= TOPICS_MAX {
            self.known.clear();
        }
        self.first.get_or_insert(context);
        let known = fields.map(|fields| {
            collector.set_context_fields(context, fields);
            context
        });
        self.known.insert(bytes.into(), known.clone());
        known
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use weir_plugin_api::{
        Position, Value,
        options::{Diagnostics, Item, Node, Place, Table},
        testing,
    };

    use super::*;

    fn rule(entries: &[(&str, &str)]) -> Result<Rule, Vec<String>> {
        rule_with_types(entries, &[])
    }

    fn rule_with_types(entries: &[(&str, &str)], types: &[(&str, &str)]) -> Result<Rule, Vec<String>> {
        let mut table = texts(entries);
        if !types.is_empty() {
            let node = Node { place: Place::default(), item: Item::Table(texts(types)), secret: false };
            table.entries.push(("types".into(), Place::default(), node));
        }
        let diagnostics = Diagnostics::default();
        let rule = Rule::read(Section::new("inputs.mqtt_consumer.topic_parsing", &table, Place::default(), &diagnostics));
        let messages: Vec<_> = diagnostics.take().into_iter().map(|d| d.message).collect();
        if messages.is_empty() { Ok(rule.unwrap()) } else { Err(messages) }
    }

    fn texts(entries: &[(&str, &str)]) -> Table {
        Table {
            entries: entries
                .iter()
                .map(|(k, v)| {
                    let node = Node { place: Place::default(), item: Item::Text((*v).to_owned()), secret: false };
                    ((*k).to_owned(), Place::default(), node)
                })
                .collect(),
        }
    }

    fn point_of(topics: &mut Topics, topic: &str) -> String {
        let (mut collector, mut receiver) = testing::collector();
        let context = topics.context(topic.as_bytes(), &mut collector).unwrap();
        collector.set_context(context);
        collector.point("default", &[], Some(1)).field("v", Value::Int(1));
        collector.try_flush(Position::None).unwrap();
        receiver.take().remove(0)
    }

    #[test]
    fn levels_become_measurement_and_tags() {
        let rule = rule(&[("topic", "+/cpu/+"), ("measurement", "_/measurement/_"), ("tags", "site/_/core")]).unwrap();
        let mut topics = Topics::new("topic".into(), vec![rule]);
        assert_eq!(point_of(&mut topics, "north/cpu/23"), "cpu,core=23,site=north,topic=north/cpu/23 v=1i 1");
    }

    #[test]
    fn a_topic_nobody_expected_is_read_all_the_same() {
        let rule = rule(&[("topic", "+/cpu/+"), ("tags", "site/_/core")]).unwrap();
        let mut topics = Topics::new(String::new(), vec![rule]);
        assert_eq!(point_of(&mut topics, "something/else"), "default v=1i 1");
    }

    #[test]
    fn patterns_of_other_lengths_are_refused() {
        assert_eq!(rule(&[("topic", "a/+"), ("tags", "_/x/y")]).unwrap_err(), ["`tags` has 3 levels, `topic` has 2"]);
        assert_eq!(rule(&[("topic", "#/a")]).unwrap_err(), ["`topic`: `#` can only be the last level"]);
        assert_eq!(rule(&[("topic", "a/+"), ("measurement", "x/y")]).unwrap_err(), ["`measurement` names more than one level"]);
    }

    #[test]
    fn levels_become_fields_of_their_types() {
        let entries = [("topic", "+/+/+/+"), ("fields", "site/channel/factor/v")];
        let rule = rule_with_types(&entries, &[("channel", "int"), ("factor", "float"), ("v", "uint")]).unwrap();
        let mut topics = Topics::new(String::new(), vec![rule]);
        // The last one replaces the payload's own field of that name.
        assert_eq!(point_of(&mut topics, "north/-3/0.5/9"), r#"default v=9u,site="north",channel=-3i,factor=0.5 1"#);
        let (mut collector, _receiver) = testing::collector();
        let error = topics.context(b"north/three/0.5/9", &mut collector).unwrap_err();
        assert_eq!(error.to_string(), "level 2 of the topic is no int");
    }

    #[test]
    fn a_type_without_its_field_is_refused() {
        let errors = rule_with_types(&[("topic", "+/+"), ("fields", "_/x")], &[("y", "int")]).unwrap_err();
        assert_eq!(errors, ["`types` names `y`, which is not among `fields`"]);
    }

    #[test]
    fn a_hash_matches_any_number_of_levels() {
        let rule = rule(&[("topic", "site/#"), ("tags", "kind/_")]).unwrap();
        for (topic, matches) in [("site", true), ("site/a/b/c", true), ("other/a", false)] {
            assert_eq!(rule.matches(&topic.split('/').collect::<Vec<_>>()), matches, "{topic}");
        }
    }

    #[test]
    fn the_table_follows_a_collector_that_starts_its_own_anew() {
        let shape = weir_plugin_api::collector::Shape { series_max: 2, ..Default::default() };
        let (mut collector, _receiver, _) = testing::collector_with(shape, 4);
        let mut topics = Topics::new(String::new(), Vec::new());
        for topic in ["a", "b", "c", "d", "a", "b", "c", "d"] {
            let cached = topics.context(topic.as_bytes(), &mut collector).unwrap();
            assert_eq!(cached, collector.context(&[], None, Some(topic)), "{topic}");
        }
    }
}
