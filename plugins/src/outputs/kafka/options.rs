//! Telegraf's options of the Kafka output, and what they mean to librdkafka.
//!
//! Apart because the mapping is long and pure: options in, a list of settings or errors out.

use std::time::Duration;

use rdkafka::ClientConfig;
use weir_plugin_api::options::{Secret, Section};

use crate::net::template::{POINT_NAMES, Template};

weir_plugin_api::choice! {
    /// Which time a Kafka message carries.
    pub enum Timestamp {
        /// The point's.
        Metric = "metric",
        /// That of sending.
        Now = "now",
    }
}

weir_plugin_api::choice! {
    /// What goes into one message.
    pub enum Layout {
        /// One point.
        PerPoint = "non-batch",
        /// All points of a write that have one topic and one key.
        Batch = "batch",
    }
}

weir_plugin_api::options! {
    /// Options of `kafka`.
    pub struct Options {
        /// Brokers to ask for the others: `host:9092`.
        brokers: Vec<String>,
        /// Topic, with `{{ .Name }}` (the measurement, also `{{ .PluginName }}`), `{{ .Hostname }}` (the tag `host`) and
        /// `{{ .Tag "key" }}` in it. Bytes Kafka does not allow in what is filled in become `_`.
        topic: String,
        /// Tag whose value is the topic, where a point has it.
        topic_tag: String = String::new(),
        /// Leave the `topic_tag` out of what is written.
        exclude_topic_tag: bool = false,
        /// Tag whose value is the key, where a point has it. One key, one partition, one order.
        routing_tag: String = String::new(),
        /// The key of the others, with the names of `topic` in it; `random` spreads over the partitions, as without any.
        routing_key: String = String::new(),
        /// 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
        compression_codec: u8 = 0,
        /// Who must have a message before it counts: -1 all replicas in sync, 1 the leader, 0 nobody.
        required_acks: i64 = -1,
        /// The broker recognises messages sent again after a lost answer. Needs `required_acks = -1`, and is on where that is so.
        idempotent_writes: Option<bool> = None,
        /// Attempts per message after the first; without it as many as fit into `timeout`.
        max_retry: Option<u32> = None,
        /// How long a message may take altogether; then the write is tried again from outside.
        timeout: Duration = Duration::from_secs(30),
        /// Largest message, bytes.
        max_message_bytes: u32 = 1_000_000,
        /// `metric`: a message carries the point's time, by which Kafka's retention then forgets it; `now`: that of sending.
        producer_timestamp: Timestamp = Timestamp::Metric,
        /// A message per point, or one per topic, key and write.
        layout: Layout = Layout::PerPoint,
        /// Each write is a transaction that also says how far this output has got. Readers with `isolation.level=read_committed` then see
        /// each point once, whatever dies in between. Needs `required_acks = -1` and idempotent writes.
        exactly_once: bool = false,
        /// Name of the transactions, one for each output of each agent: who takes it over shuts out the one before. Without it, a name
        /// made of the agent's id and the output's.
        transactional_id: Option<String> = None,
        /// Topic for how far outputs have got, `weir_control` without it. It is made with one partition and compacted if it is missing.
        control_topic: Option<String> = None,
        /// Our name in the broker's logs.
        client_id: String = "weir".into(),
        /// Encrypt the connection; on by itself where another TLS option is set.
        enable_tls: Option<bool> = None,
        /// File of the certificate authorities to trust, PEM, in place of the system's.
        tls_ca: Option<String> = None,
        /// File of the client's own certificate chain, PEM.
        tls_cert: Option<String> = None,
        /// File of the client's private key, PEM.
        tls_key: Option<String> = None,
        /// Password of the key's file.
        tls_key_pwd: Option<Secret> = None,
        /// Take any certificate: the connection is encrypted, but to anybody.
        insecure_skip_verify: bool = false,
        /// User name for SASL.
        sasl_username: Option<String> = None,
        /// Password for SASL.
        sasl_password: Option<Secret> = None,
        /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
        sasl_mechanism: Option<Mechanism> = None,
    }
}

weir_plugin_api::choice! {
    /// How SASL proves who we are.
    pub enum Mechanism {
        /// The password as it is.
        Plain = "PLAIN",
        /// A proof by SHA-256.
        Scram256 = "SCRAM-SHA-256",
        /// A proof by SHA-512.
        Scram512 = "SCRAM-SHA-512",
    }
}

/// Telegraf's options that are refused by name.
pub const UNSUPPORTED: &[&str] = &[
    "topic_suffix",
    "version",
    "metadata_full",
    "metadata_retry_max",
    "metadata_retry_type",
    "metadata_retry_backoff",
    "metadata_retry_max_duration",
    "keep_alive_period",
    "socks5_enabled",
    "socks5_address",
    "socks5_username",
    "socks5_password",
    "sasl_version",
    "sasl_extensions",
    "sasl_access_token",
    "sasl_gssapi_service_name",
    "sasl_gssapi_auth_type",
    "sasl_gssapi_disable_pafxfast",
    "sasl_gssapi_kerberos_config_path",
    "sasl_gssapi_key_tab_path",
    "sasl_gssapi_realm",
    "tls_server_name",
    "tls_min_version",
    "tls_cipher_suites",
    "tls_renegotiation_method",
    "ssl_ca",
    "ssl_cert",
    "ssl_key",
];

/// Where transactions say how far they have got, unless another topic is named.
const CONTROL_TOPIC: &str = "weir_control";
/// A transaction nobody ends is ended by the broker after this time at least: until then readers wait for it.
const TRANSACTION_MIN: Duration = Duration::from_secs(60);
/// Kafka's own limit of that time (`transaction.max.timeout.ms`).
const TRANSACTION_MAX: Duration = Duration::from_secs(900);

/// What was read, as the output uses it.
pub struct Checked {
    /// The options themselves.
    pub options: Options,
    /// The topic.
    pub topic: Template,
    /// The key, if there is any.
    pub key: Option<Template>,
    /// For librdkafka's producer.
    pub client: ClientConfig,
    /// For others of its clients: brokers and how to get in.
    pub connection: ClientConfig,
    /// Where transactions say how far they have got.
    pub control_topic: String,
}

/// Reads and checks them.
pub fn read(section: &Section<'_>) -> Option<Checked> {
    let options = Options::read(section)?;
    let before = section.diagnostics().errors();
    if options.brokers.is_empty() || options.brokers.iter().any(|b| b.trim().is_empty() || b.contains(',')) {
        section.error_at("brokers", "`brokers` takes a list of `host:port`");
    }
    let template = |key: &str, text: &str| {
        Template::parse(text, POINT_NAMES).map_err(|reason| section.error_at(key, format!("`{key}`: {reason}"))).ok()
    };
    let topic = template("topic", &options.topic);
    if topic.as_ref().and_then(Template::fixed).is_some_and(|t| !is_topic(t)) {
        section.error_at("topic", "`topic` takes 1 to 249 letters, digits, dots, underscores and hyphens");
    }
    let key = match options.routing_key.as_str() {
        "" | "random" => Some(None),
        text => template("routing_key", text).map(Some),
    };
    let connection = connection(section, &options);
    let client = connection.clone().and_then(|connection| producer(section, &options, connection));
    let control_topic = options.control_topic.clone().unwrap_or_else(|| CONTROL_TOPIC.into());
    once(section, &options, &control_topic);
    if section.diagnostics().errors() > before {
        return None;
    }
    Some(Checked { topic: topic?, key: key?, client: client?, connection: connection?, control_topic, options })
}

/// Whether Kafka takes it as a topic.
pub fn is_topic(text: &str) -> bool {
    (1..=249).contains(&text.len()) && text.bytes().all(is_topic_byte) && text != "." && text != ".."
}

/// Whether it may stand in a topic.
pub fn is_topic_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// What transactions need, and what only they need.
fn once(section: &Section<'_>, options: &Options, control_topic: &str) {
    if !options.exactly_once {
        for key in ["transactional_id", "control_topic"].into_iter().filter(|key| section.has(key)) {
            section.error_at(key, format!("`{key}` needs `exactly_once = true`"));
        }
        return;
    }
    if options.required_acks != -1 || options.idempotent_writes == Some(false) || options.max_retry == Some(0) {
        section.error_at("exactly_once", "`exactly_once` needs `required_acks = -1`, idempotent writes and retries");
    }
    if options.timeout > TRANSACTION_MAX {
        section.error_at("timeout", "`timeout` must be at most 15m with `exactly_once`");
    }
    if options.transactional_id.as_deref().is_some_and(str::is_empty) {
        section.error_at("transactional_id", "`transactional_id` must not be empty");
    }
    if !is_topic(control_topic) {
        section.error_at("control_topic", "`control_topic` takes 1 to 249 letters, digits, dots, underscores and hyphens");
    }
    if options.topic == control_topic {
        section.error_at("control_topic", "`control_topic` must be another topic than that of the points");
    }
}

/// How long the broker waits for the end of a transaction. Messages are given up before.
pub fn transaction_timeout(options: &Options) -> Duration {
    (options.timeout * 2).clamp(TRANSACTION_MIN, TRANSACTION_MAX)
}

fn connection(section: &Section<'_>, options: &Options) -> Option<ClientConfig> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", options.brokers.join(",")).set("client.id", &options.client_id).set("log.connection.close", "false");
    security(section, options, &mut config)?;
    Some(config)
}

fn producer(section: &Section<'_>, options: &Options, mut config: ClientConfig) -> Option<ClientConfig> {
    let Some(codec) = ["none", "gzip", "snappy", "lz4", "zstd"].get(usize::from(options.compression_codec)) else {
        section.error_at("compression_codec", "`compression_codec` must be between 0 and 4");
        return None;
    };
    if !matches!(options.required_acks, -1..=1) {
        section.error_at("required_acks", "`required_acks` must be -1, 0 or 1");
        return None;
    }
    let idempotent = options.idempotent_writes.unwrap_or(options.required_acks == -1 && options.max_retry != Some(0));
    if idempotent && (options.required_acks != -1 || options.max_retry == Some(0)) {
        section.error_at("idempotent_writes", "`idempotent_writes` needs `required_acks = -1` and retries");
        return None;
    }
    if !(1000..=i64::from(i32::MAX)).contains(&options.max_message_bytes.into()) {
        section.error_at("max_message_bytes", "`max_message_bytes` must be between 1000 and 2147483647");
        return None;
    }
    let timeout_ms = options.timeout.as_millis().clamp(1, i32::MAX as u128).to_string();
    config
        .set("compression.codec", *codec)
        .set("acks", options.required_acks.to_string())
        .set("enable.idempotence", idempotent.to_string())
        .set("message.max.bytes", options.max_message_bytes.to_string())
        .set("message.timeout.ms", &timeout_ms)
        // A topic the broker does not know is a matter for a person: known after this time, not after the whole timeout.
        .set("topic.metadata.propagation.max.ms", "5000")
        // The same key goes to the same partition as with Kafka's own clients.
        .set("partitioner", "murmur2_random");
    if let Some(retries) = options.max_retry {
        config.set("message.send.max.retries", retries.min(i32::MAX as u32).to_string());
    }
    Some(config)
}

fn security(section: &Section<'_>, options: &Options, config: &mut ClientConfig) -> Option<()> {
    let any = options.tls_ca.is_some() || options.tls_cert.is_some() || options.tls_key.is_some() || options.insecure_skip_verify;
    let tls = options.enable_tls.unwrap_or(any);
    let sasl = options.sasl_username.as_deref().is_some_and(|u| !u.is_empty());
    if !sasl && (options.sasl_password.as_ref().is_some_and(|p| !p.is_empty()) || options.sasl_mechanism.is_some()) {
        section.error_at("sasl_mechanism", "SASL needs `sasl_username`");
        return None;
    }
    let protocol = match (tls, sasl) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if sasl {
        config
            .set("sasl.mechanism", options.sasl_mechanism.unwrap_or(Mechanism::Plain).as_str())
            .set("sasl.username", options.sasl_username.as_deref().unwrap_or_default())
            .set("sasl.password", options.sasl_password.as_ref().map_or("", Secret::expose));
    }
    if !tls {
        return Some(());
    }
    for (key, file) in [("tls_ca", &options.tls_ca), ("tls_cert", &options.tls_cert), ("tls_key", &options.tls_key)] {
        if let Some(file) = file
            && let Err(error) = std::fs::File::open(file)
        {
            section.error_at(key, format!("can't read {file}: {error}"));
            return None;
        }
    }
    if options.tls_cert.is_some() != options.tls_key.is_some() {
        section.error_at("tls_cert", "`tls_cert` and `tls_key` need each other");
        return None;
    }
    config.set("ssl.ca.location", options.tls_ca.as_deref().unwrap_or("probe"));
    if let (Some(cert), Some(key)) = (&options.tls_cert, &options.tls_key) {
        config.set("ssl.certificate.location", cert).set("ssl.key.location", key);
    }
    if let Some(password) = &options.tls_key_pwd {
        config.set("ssl.key.password", password.expose());
    }
    if options.insecure_skip_verify {
        config.set("enable.ssl.certificate.verification", "false").set("ssl.endpoint.identification.algorithm", "none");
    }
    Some(())
}
