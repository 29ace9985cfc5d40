//! Tells an MQTT broker of alerts: a message per transition (edge), or a retained state that follows the alert (level).
//!
//! A level is a retained message, so that whoever subscribes later still learns it; publishing it again does no harm. The client is
//! connected before it is needed: a level leaves with one write to a socket.

use weir_plugin_api::{
    options::{OptionSpec, Section},
    plugin::{ActionEntry, AnyAction, BoxFuture, BuildContext, EdgeAction, LevelAction, Notification, Outcome, PluginError, Rejection},
};

use super::notification_json;
use crate::net::{
    mqtt::{
        ClientOptions,
        publisher::{Message, PublishError, Publisher},
    },
    template::{Part, Template},
};

weir_plugin_api::choice! {
    /// What the action does.
    pub enum Mode {
        /// A message per transition.
        Edge = "edge",
        /// A retained message that says whether the alert fires.
        Level = "level",
    }
}

weir_plugin_api::choice! {
    /// When a level is set.
    pub enum Fire {
        /// When its cause is on disk.
        Durable = "durable",
        /// At once: it may have to be taken back after a crash.
        AtOnce = "at_once",
    }
}

weir_plugin_api::choice! {
    /// What becomes of a level at a clean stop.
    pub enum OnExit {
        /// It stays as it is.
        Keep = "keep",
        /// It is switched off.
        Off = "off",
        /// It is switched on.
        On = "on",
    }
}

weir_plugin_api::options! {
    /// Options of `mqtt` besides those of every publisher.
    pub struct Options {
        /// `edge`: a message per transition; `level`: a retained message that follows the alert's state.
        mode: Mode = Mode::Edge,
        /// Topic. In edge mode with `{{ .Alert }}`, `{{ .State }}`, `{{ .Severity }}` and `{{ .Tag "key" }}` in it.
        topic: String,
        /// Quality of service, 0 or 1.
        qos: u8 = 1,
        /// Edge mode: the broker keeps the last message for later subscribers. A level is always retained.
        retain: bool = false,
        /// Edge mode: the message, with the names of `topic` and `{{ .Value }}`, `{{ .N }}`, `{{ .Time }}` (nanoseconds since 1970), `{{ .Key }}` (the
        /// idempotency key) in it; without it a JSON object with all of these.
        payload: Option<String> = None,
        /// Level mode: the message while the alert fires.
        on: String = "on".into(),
        /// Level mode: the message while it does not.
        off: String = "off".into(),
        /// Level mode: `at_once` sets the level before its cause is on disk.
        fire: Fire = Fire::Durable,
        /// Level mode: what becomes of the level at a clean stop.
        on_exit: OnExit = OnExit::Keep,
    }
}

const NAMES: &[&str] = &["Alert", "State", "Severity", "Value", "N", "Time", "Key"];
const TOPIC_NAMES: &[&str] = &["Alert", "State", "Severity"];

/// The registry's entry.
pub static ENTRY: ActionEntry =
    ActionEntry { name: "mqtt", about: "a message per transition, or a retained state, at an MQTT broker", specs, unsupported: &[], build };

fn specs() -> Vec<OptionSpec> {
    let mut specs = Options::specs();
    specs.extend(ClientOptions::all_specs());
    specs
}

fn build(section: &Section<'_>, context: &BuildContext) -> Option<AnyAction> {
    let (options, client) = (Options::read(section), ClientOptions::settings(section));
    let options = options?;
    if options.qos > 1 {
        section.error_at("qos", "`qos` must be 0 or 1");
        return None;
    }
    let foreign: &[&str] = match options.mode {
        Mode::Edge => &["on", "off", "fire", "on_exit"],
        Mode::Level => &["retain", "payload"],
    };
    for key in foreign.iter().filter(|k| section.has(k)) {
        section.error_at(key, format!("`{key}` has no meaning with mode = \"{}\"", options.mode.as_str()));
    }
    let template =
        |key, text: &str, names| Template::parse(text, names).map_err(|reason| section.error_at(key, format!("`{key}`: {reason}"))).ok();
    let topic = template("topic", &options.topic, if options.mode == Mode::Edge { TOPIC_NAMES } else { &[] });
    let payload = match &options.payload {
        None => None,
        Some(text) => Some(template("payload", text, NAMES)?),
    };
    let (topic, (settings, timeout)) = (topic?, client?);
    let publisher = Publisher::new(settings, &context.name, timeout);
    Some(match options.mode {
        Mode::Edge => AnyAction::Edge(Box::new(Edge { publisher, topic, payload, qos: options.qos, retain: options.retain })),
        Mode::Level => {
            let Some(topic) = topic.fixed().filter(|t| !t.is_empty() && !t.contains(['+', '#', '\0'])) else {
                section.error_at("topic", "`topic` of a level is one topic: no wildcards, nothing to fill in");
                return None;
            };
            AnyAction::Level(Box::new(Level { publisher, topic: topic.to_owned(), options }))
        }
    })
}

struct Edge {
    publisher: Publisher,
    topic: Template,
    payload: Option<Template>,
    qos: u8,
    retain: bool,
}

fn fill(notification: &Notification) -> impl FnMut(&Part, &mut String) + '_ {
    |part, out| match part {
        Part::Text(text) => out.push_str(text),
        Part::Tag(key) => {
            out.push_str(notification.tags.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v));
        }
        Part::Name(name) => match *name {
            "Alert" => out.push_str(&notification.alert),
            "State" => out.push_str(&notification.state),
            "Severity" => out.push_str(&notification.severity),
            "Value" => out.push_str(&notification.value.map_or_else(String::new, |v| v.to_string())),
            "N" => out.push_str(&notification.n.to_string()),
            "Time" => out.push_str(&notification.time.to_string()),
            _ => out.push_str(&notification.idempotency_key),
        },
    }
}

impl Edge {
    async fn publish(&mut self, notification: &Notification) -> Outcome {
        let mut topic = String::new();
        self.topic.render(&mut topic, fill(notification));
        let payload = match &self.payload {
            None => notification_json::json(notification),
            Some(template) => {
                let mut payload = String::new();
                template.render(&mut payload, fill(notification));
                payload
            }
        };
        let topic = topic.replace(['+', '#', '\0'], "_");
        let message = Message { topic, payload: payload.into_bytes() };
        match self.publisher.publish(vec![message], self.qos, self.retain).await {
            Ok(refused) => {
                let rejection = |r: &crate::net::mqtt::publisher::RefusedMessage| Rejection {
                    index: 0,
                    status: "refused".into(),
                    reason: r.reason.clone(),
                };
                Outcome::Delivered { rejected: refused.iter().map(rejection).collect(), collapsed: 0, token: 0 }
            }
            Err(PublishError::Unreachable(reason)) => Outcome::Retry { after: None, reason },
            Err(PublishError::NotAllowed(reason)) => Outcome::Hold { reason },
        }
    }
}

impl EdgeAction for Edge {
    fn fire<'a>(&'a mut self, notification: &'a Notification) -> BoxFuture<'a, Outcome> {
        Box::pin(self.publish(notification))
    }

    fn claims(&self) -> Vec<String> {
        self.publisher.claims()
    }
}

struct Level {
    publisher: Publisher,
    topic: String,
    options: Options,
}

impl Level {
    async fn publish(&mut self, on: bool) -> Result<(), PluginError> {
        let payload = if on { &self.options.on } else { &self.options.off };
        let message = Message { topic: self.topic.clone(), payload: payload.clone().into_bytes() };
        match self.publisher.publish(vec![message], self.options.qos, true).await {
            Ok(refused) => match refused.into_iter().next() {
                None => Ok(()),
                Some(refused) => Err(PluginError(refused.reason)),
            },
            Err(error) => Err(PluginError::new(error)),
        }
    }
}

impl LevelAction for Level {
    fn set<'a>(&'a mut self, on: bool) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(self.publish(on))
    }

    fn claims(&self) -> Vec<String> {
        self.publisher.claims()
    }

    fn exit<'a>(&'a mut self) -> BoxFuture<'a, ()> {
        Box::pin(async {
            let wanted = match self.options.on_exit {
                OnExit::Keep => None,
                OnExit::Off => Some(false),
                OnExit::On => Some(true),
            };
            if let Some(on) = wanted
                && let Err(error) = self.publish(on).await
            {
                tracing::warn!(topic = self.topic, reason = %error, "the level could not be set at the end");
            }
            self.publisher.close().await;
        })
    }

    fn at_once(&self) -> bool {
        self.options.fire == Fire::AtOnce
    }
}
