//! From a topic to what it says of a point: the `topic` tag and Telegraf's `topic_parsing`, worked out once per topic.
//!
//! Apart because it is Telegraf's semantics, and because the way of a message must only see a look-up.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weir_plugin_api::{
    collector::{Collector, Context},
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
    }
}

/// Telegraf's options of a topic rule that are refused by name.
const UNSUPPORTED: &[&str] = &["fields", "types"];

impl Rule {
    /// Reads and checks one.
    pub fn read(section: Section<'_>) -> Option<Self> {
        let options = RuleOptions::read(&section);
        let rule = options.and_then(|options| Self::checked(&section, &options));
        section.finish(UNSUPPORTED);
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
        let (measurement, tags) = (measurement?, tags?);
        if measurement.len() > 1 {
            section.error_at("measurement", "`measurement` names more than one level");
            return None;
        }
        Some(Self { measurement: measurement.first().map(|(i, _)| *i), tags, topic })
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
}

/// What was learnt of each topic.
pub struct Topics {
    tag: String,
    rules: Vec<Rule>,
    known: HashMap<Box<[u8]>, Context, FixedState>,
    first: Option<Context>,
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
    #[inline]
    pub fn context(&mut self, topic: &[u8], collector: &mut Collector) -> Context {
        match self.known.get(topic) {
            Some(context) => *context,
            None => self.learn(topic, collector),
        }
    }

    #[cold]
    fn learn(&mut self, bytes: &[u8], collector: &mut Collector) -> Context {
        let topic = String::from_utf8_lossy(bytes);
        let levels: Vec<&str> = topic.split('/').collect();
        let mut tags: Vec<(&str, &str)> = Vec::new();
        let mut measurement = None;
        for rule in self.rules.iter().filter(|r| r.matches(&levels)) {
            measurement = rule.measurement.and_then(|i| levels.get(i).copied()).or(measurement);
            tags.extend(rule.tags.iter().filter_map(|(i, name)| Some((name.as_str(), levels.get(*i).copied()?))));
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
        self.known.insert(bytes.into(), context);
        context
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
        let table = Table {
            entries: entries
                .iter()
                .map(|(k, v)| {
                    let node = Node { place: Place::default(), item: Item::Text((*v).to_owned()), secret: false };
                    ((*k).to_owned(), Place::default(), node)
                })
                .collect(),
        };
        let diagnostics = Diagnostics::default();
        let rule = Rule::read(Section::new("inputs.mqtt_consumer.topic_parsing", &table, Place::default(), &diagnostics));
        let messages: Vec<_> = diagnostics.take().into_iter().map(|d| d.message).collect();
        if messages.is_empty() { Ok(rule.unwrap()) } else { Err(messages) }
    }

    fn point_of(topics: &mut Topics, topic: &str) -> String {
        let (mut collector, mut receiver) = testing::collector();
        let context = topics.context(topic.as_bytes(), &mut collector);
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
            let cached = topics.context(topic.as_bytes(), &mut collector);
            assert_eq!(cached, collector.context(&[], None, Some(topic)), "{topic}");
        }
    }
}
