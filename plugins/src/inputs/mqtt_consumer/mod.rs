//! Reads points from the messages of an MQTT broker; Telegraf's input of that name, with acknowledgements that mean it.
//!
//! A QoS 1 message is acknowledged only after the batch that holds its points is durable. With `persistent_session` the broker then
//! repeats what was never acknowledged, and what was recorded already is recognised by its packet id and hash.

use std::time::Duration;

use weir_plugin_api::{
    options::{OptionSpec, Secret, Section, Size},
    plugin::{AnyInput, BuildContext, BuiltInput, Decoder, InputEntry},
};

use crate::{
    codecs,
    net::{
        mqtt::{self, Protocol, Settings},
        tls::TlsOptions,
    },
};

mod redelivery;
mod run;
mod topics;

weir_plugin_api::options! {
    /// Options of `mqtt_consumer`.
    pub struct Options {
        /// Brokers, tried in turn: `tcp://host:1883`, `ssl://host:8883`.
        servers: Vec<String>,
        /// Topics to subscribe to, with wildcards; `$share/group/topic` shares the messages among consumers.
        topics: Vec<String>,
        /// Tag that takes the topic; none if empty.
        topic_tag: String = "topic".into(),
        /// Quality of service: 0 loses what is sent while the link is down, 1 does not. 2 is subscribed as 1.
        qos: u8 = 0,
        /// The broker keeps the session while we are away and sends afterwards what was published meanwhile. Needs `client_id`.
        persistent_session: bool = false,
        /// Name at the broker; two clients of one name throw each other out. Without it a random one.
        client_id: String = String::new(),
        /// How long the broker keeps the session of a client that is away (version 5); without it for ever.
        session_expiry: Option<Duration> = None,
        /// User name.
        username: Option<String> = None,
        /// Password.
        password: Option<Secret> = None,
        /// Version of MQTT, `3.1.1` or `5`; without it 5, and 3.1.1 where the broker refuses that.
        protocol: Option<Protocol> = None,
        /// How long connecting may take.
        connection_timeout: Duration = Duration::from_secs(30),
        /// A ping when nothing else was sent for that long; 0 for never.
        keepalive: Duration = Duration::from_secs(60),
        /// How long the answer to a ping may take before the connection is given up.
        ping_timeout: Duration = Duration::from_secs(10),
        /// Messages that may wait for their acknowledgement, 1 to 65535; with `persistent_session` at most 8192.
        max_undelivered_messages: u16 = 1000,
        /// Largest packet taken; a larger message, and one of more than 262144 fields, is counted, acknowledged and thrown away.
        max_packet_size: Size = Size(10 * 1024 * 1024),
    }
}

/// Telegraf's options that are refused by name, besides those of TLS.
const UNSUPPORTED: &[&str] =
    &["client_trace", "tls_key_pwd", "tls_min_version", "tls_cipher_suites", "tls_renegotiation_method", "tls_enable"];

/// The registry's entry.
pub static ENTRY: InputEntry =
    InputEntry { name: "mqtt_consumer", about: "messages of an MQTT broker", specs, unsupported: UNSUPPORTED, build };

fn specs() -> Vec<OptionSpec> {
    let parsing = OptionSpec {
        name: "topic_parsing",
        kind: "tables",
        default: Some(String::new()),
        doc: "Levels of the topic that become measurement and tags, a table per pattern of topics.",
    };
    let mut specs = Options::specs();
    specs.push(parsing);
    specs.extend(TlsOptions::specs());
    specs.extend(codecs::decoder_specs());
    specs
}

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<BuiltInput> {
    let (options, tls_options, decoder) = (Options::read(section), TlsOptions::read(section), codecs::decoder(section));
    let parsing = section.tables("topic_parsing");
    let wanted = parsing.len();
    let rules: Vec<_> = parsing.into_iter().filter_map(topics::Rule::read).collect();
    let (options, tls_options, decoder) = (options?, tls_options?, decoder?);
    let settings = settings(section, &options, &tls_options);
    let valid = check(section, &options);
    (valid && rules.len() == wanted).then_some(())?;
    let settings = settings?;
    let claims = settings.claims();
    Some(BuiltInput {
        input: AnyInput::Streaming(Box::new(run::Consumer::new(
            settings,
            &options,
            topics::Topics::new(options.topic_tag.clone(), rules),
            decoder,
        ))),
        claims,
    })
}

fn settings(section: &Section<'_>, options: &Options, tls_options: &TlsOptions) -> Option<Settings> {
    let servers = mqtt::servers(section, &options.servers);
    let login = mqtt::login(section, options.username.clone(), options.password.clone());
    let servers = servers?;
    let tls = mqtt::tls(section, tls_options, &servers);
    let expiry = match (options.persistent_session, options.session_expiry) {
        (false, _) => None,
        (true, None) => Some(u32::MAX),
        (true, Some(expiry)) => Some(u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)),
    };
    Some(Settings {
        servers,
        client_id: mqtt::client_id(&options.client_id),
        named: !options.client_id.is_empty(),
        login: login?,
        tls: tls?,
        version: options.protocol.map(Into::into),
        connection_timeout: options.connection_timeout,
        keepalive: options.keepalive,
        ping_timeout: options.ping_timeout,
        receive_max: Some(options.max_undelivered_messages),
        packet_max: usize::try_from(options.max_packet_size.0).unwrap_or(usize::MAX),
        session_expiry: expiry,
    })
}

fn check(section: &Section<'_>, options: &Options) -> bool {
    let before = section.diagnostics().errors();
    if options.topics.is_empty() {
        section.error_at("topics", "`topics` names no topic");
    }
    for (i, topic) in options.topics.iter().enumerate() {
        if let Err(reason) = valid_filter(topic) {
            section.error_at("topics", format!("`topics` element {}: {reason}", i + 1));
        }
    }
    match options.qos {
        0 => section.warn_at("qos", "with qos 0 readings sent while the link or the agent is down are lost; qos = 1 keeps them"),
        1 => {}
        2 => section.warn_at("qos", "qos 2 is subscribed as 1: repeated messages are recognised here"),
        _ => section.error_at("qos", "`qos` must be 0, 1 or 2"),
    }
    if options.qos > 0 && !options.persistent_session {
        section.warn_at("persistent_session", "without a persistent session readings sent while the agent is down are lost");
    }
    if options.persistent_session && options.client_id.is_empty() {
        section.error_at("persistent_session", "`persistent_session` needs `client_id`: the broker knows the session by it");
    }
    if options.max_undelivered_messages == 0 {
        section.error_at("max_undelivered_messages", "`max_undelivered_messages` must be between 1 and 65535");
    }
    if options.persistent_session && options.max_undelivered_messages > redelivery::WINDOW_MAX {
        let reason =
            format!("with `persistent_session` at most {} messages can be told apart when they are repeated", redelivery::WINDOW_MAX);
        section.error_at("max_undelivered_messages", reason);
    }
    if options.max_packet_size.0 < 128 {
        section.error_at("max_packet_size", "`max_packet_size` must be at least 128 bytes");
    }
    section.diagnostics().errors() == before
}

/// Whether a broker takes it as a topic filter.
fn valid_filter(filter: &str) -> Result<(), &'static str> {
    let filter = match filter.strip_prefix("$share/") {
        Some(shared) => shared.split_once('/').map(|(_, f)| f).ok_or("a shared topic is `$share/group/topic`")?,
        None => filter,
    };
    if filter.is_empty() || filter.len() > usize::from(u16::MAX) || filter.contains('\0') {
        return Err("a topic has 1 to 65535 bytes and no NUL");
    }
    let levels: Vec<&str> = filter.split('/').collect();
    for (i, level) in levels.iter().enumerate() {
        if level.contains('#') && (*level != "#" || i + 1 != levels.len()) {
            return Err("`#` stands alone in the last level");
        }
        if level.contains('+') && *level != "+" {
            return Err("`+` stands alone in its level");
        }
    }
    Ok(())
}

/// What one consumer needs besides its connection.
pub(crate) struct Reading {
    topics: topics::Topics,
    decoder: Box<dyn Decoder>,
}
