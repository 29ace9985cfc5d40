//! Publishes points to an MQTT broker; Telegraf's output of that name.
//!
//! With QoS 1 a write is done when the broker has acknowledged all of it: at least once. With QoS 0 it is done when the bytes are
//! written to the socket.

use weir_plugin_api::{
    Lane, Points,
    options::{OptionSpec, Section},
    plugin::{BoxFuture, BuildContext, Encoder, Outcome, Output, OutputEntry, OutputResume, PluginError, Rejection},
};

use crate::{
    codecs,
    net::{
        mqtt::{
            ClientOptions,
            publisher::{Message, PublishError, Publisher, RefusedMessage},
        },
        template::{POINT_NAMES, Template, fill_from_series},
    },
};

weir_plugin_api::choice! {
    /// What goes into one message.
    pub enum Layout {
        /// One point.
        NonBatch = "non-batch",
        /// All points of a write that have one topic.
        Batch = "batch",
    }
}

weir_plugin_api::options! {
    /// Options of `mqtt` besides those of every publisher.
    pub struct Options {
        /// Topic, with `{{ .Name }}` (the measurement, also `{{ .PluginName }}`), `{{ .Hostname }}` (the tag `host`) and
        /// `{{ .Tag "key" }}` in it. `+`, `#` and NUL in what is filled in become `_`.
        topic: String,
        /// Quality of service: 0 may lose messages with the connection, 1 delivers at least once. 2 is published as 1.
        qos: u8 = 0,
        /// The broker keeps the last message of each topic for later subscribers.
        retain: bool = false,
        /// A message per point, or one per topic and write.
        layout: Layout = Layout::NonBatch,
    }
}

/// Telegraf's options that are refused by name.
const UNSUPPORTED: &[&str] = &[
    "batch",
    "topic_prefix",
    "client_trace",
    "homie_device_name",
    "homie_node_id",
    "v5",
    "tls_key_pwd",
    "tls_min_version",
    "tls_cipher_suites",
    "tls_renegotiation_method",
    "tls_enable",
];

/// The registry's entry.
pub static ENTRY: OutputEntry = OutputEntry { name: "mqtt", about: "messages to an MQTT broker", specs, unsupported: UNSUPPORTED, build };

fn specs() -> Vec<OptionSpec> {
    let mut specs = Options::specs();
    specs.extend(ClientOptions::all_specs());
    specs.extend(codecs::encoder_specs());
    specs
}

fn build(section: &Section<'_>, context: &BuildContext) -> Option<Box<dyn Output>> {
    let (options, client, encoder) = (Options::read(section), ClientOptions::settings(section), codecs::encoder(section));
    let options = options?;
    let topic = topic(section, &options.topic);
    match options.qos {
        0 => section.warn_at("qos", "with qos 0 messages can get lost with the connection; qos = 1 delivers them at least once"),
        1 => {}
        2 => section.warn_at("qos", "qos 2 is published as 1: a message can arrive twice"),
        _ => {
            section.error_at("qos", "`qos` must be 0, 1 or 2");
            return None;
        }
    }
    let (settings, timeout) = client?;
    Some(Box::new(Mqtt {
        publisher: Publisher::new(settings, &context.name, timeout),
        topic: topic?,
        qos: options.qos.min(1),
        retain: options.retain,
        layout: options.layout,
        encoder: encoder?,
    }))
}

fn topic(section: &Section<'_>, text: &str) -> Option<Template> {
    match Template::parse(text, POINT_NAMES) {
        Ok(template) if template.fixed().is_some_and(|t| t.is_empty() || t.contains(['+', '#', '\0'])) => {
            section.error_at("topic", "`topic` can't be published on: it is empty or has wildcards");
            None
        }
        Ok(template) => Some(template),
        Err(reason) => {
            section.error_at("topic", format!("`topic`: {reason}"));
            None
        }
    }
}

struct Mqtt {
    publisher: Publisher,
    topic: Template,
    qos: u8,
    retain: bool,
    layout: Layout,
    encoder: Box<dyn Encoder>,
}

impl Mqtt {
    fn messages(&mut self, points: &Points) -> (Vec<Message>, Vec<Vec<usize>>) {
        let mut messages: Vec<Message> = Vec::new();
        let mut owners: Vec<Vec<usize>> = Vec::new();
        let mut batches: Vec<Points> = Vec::new();
        for (index, point) in points.iter().enumerate() {
            let mut topic = String::new();
            let mut fill = fill_from_series(point.series());
            self.topic.render(&mut topic, |part, out| {
                let start = out.len();
                fill(part, out);
                if out[start..].contains(['+', '#', '\0']) {
                    let clean = out[start..].replace(['+', '#', '\0'], "_");
                    out.truncate(start);
                    out.push_str(&clean);
                }
            });
            if self.layout == Layout::NonBatch {
                let mut payload = Vec::new();
                self.encoder.encode(point, &mut payload);
                messages.push(Message { topic, payload });
                owners.push(vec![index]);
                continue;
            }
            let at = messages.iter().rposition(|m| m.topic == topic).unwrap_or_else(|| {
                messages.push(Message { topic, payload: Vec::new() });
                owners.push(Vec::new());
                batches.push(Points::default());
                messages.len() - 1
            });
            owners[at].push(index);
            batches[at].slices.extend(points.slice(index..index + 1).slices);
        }
        for (message, batch) in messages.iter_mut().zip(&batches) {
            self.encoder.encode_all(batch, &mut message.payload);
        }
        (messages, owners)
    }

    async fn deliver(&mut self, points: &Points) -> Outcome {
        let (messages, owners) = self.messages(points);
        match self.publisher.publish(messages, self.qos, self.retain).await {
            Ok(refused) if refused.iter().any(|r| r.too_large && owners[r.index].len() > 1) => Outcome::TooLarge,
            Ok(refused) => Outcome::Delivered { rejected: rejections(&refused, &owners), collapsed: 0, token: 0 },
            Err(PublishError::Unreachable(reason)) => Outcome::Retry { after: None, reason },
            Err(PublishError::NotAllowed(reason)) => Outcome::Hold { reason },
        }
    }
}

fn rejections(refused: &[RefusedMessage], owners: &[Vec<usize>]) -> Vec<Rejection> {
    let mut rejected: Vec<Rejection> = refused
        .iter()
        .flat_map(|r| {
            let status = if r.too_large { "too_large" } else { "refused" };
            owners[r.index].iter().map(move |index| Rejection { index: *index, status: status.into(), reason: r.reason.clone() })
        })
        .collect();
    rejected.sort_by_key(|r| r.index);
    rejected
}

impl Output for Mqtt {
    fn open<'a>(&'a mut self, resume: OutputResume) -> BoxFuture<'a, Result<OutputResume, PluginError>> {
        self.publisher.start();
        Box::pin(async move { Ok(resume) })
    }

    fn write<'a>(&'a mut self, _lane: Lane, points: &'a Points) -> BoxFuture<'a, Outcome> {
        Box::pin(self.deliver(points))
    }

    fn close<'a>(&'a mut self) -> BoxFuture<'a, ()> {
        Box::pin(self.publisher.close())
    }

    fn claims(&self) -> Vec<String> {
        self.publisher.claims()
    }
}
