//! The input that looks like an InfluxDB 2 to those who write to one.

use std::time::Duration;

use weir_plugin_api::{
    options::{Secret, Section, Size},
    plugin::{AnyInput, BuildContext, BuiltInput, InputEntry},
};

use super::influx_http::{Access, Api, Listener, ListenerSettings};
use crate::net::tls::ServerTlsOptions;

weir_plugin_api::options! {
    /// Options of the InfluxDB 2 listener.
    pub struct InfluxdbV2ListenerOptions {
        /// Where to listen, `host:port` or `:port`.
        service_address: String = ":8086".into(),
        /// Connections at a time, 0 for no limit; further ones are closed at once.
        max_connections: usize = 256,
        /// Longest time for reading a request's head, and again its body; a connection without a request for so long is closed.
        read_timeout: Duration = Duration::from_secs(10),
        /// Longest time until a write is durable; then the client is told to come again. Also for taking the answer.
        write_timeout: Duration = Duration::from_secs(10),
        /// Bytes of a body, unpacked; 4 MiB with an `Idempotency-Key`.
        max_body_size: Size = Size(32 << 20),
        /// Tag that gets the name of the bucket.
        bucket_tag: Option<String> = None,
        /// Token a client must show; empty for none.
        token: Secret = Secret::default(),
    }
}

/// The registry's entry.
pub static ENTRY: InputEntry = InputEntry {
    name: "influxdb_v2_listener",
    about: "takes writes as InfluxDB 2 does",
    specs: || [InfluxdbV2ListenerOptions::specs(), ServerTlsOptions::specs()].concat(),
    unsupported: &[
        "max_undelivered_metrics",
        "parser_type",
        "tls_key_pwd",
        "tls_min_version",
        "tls_max_version",
        "tls_cipher_suites",
        "tls_allowed_dns_names",
    ],
    build,
};

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<BuiltInput> {
    let (options, tls) = (InfluxdbV2ListenerOptions::read(section), ServerTlsOptions::read(section));
    let (options, tls) = (options?, tls?.acceptor(section)?);
    let settings = ListenerSettings {
        api: Api::V2,
        address: options.service_address,
        access: if options.token.is_empty() { Access::Open } else { Access::Token(options.token) },
        body_max: usize::try_from(options.max_body_size.0).unwrap_or(usize::MAX),
        tls,
        connections_max: options.max_connections,
        read_timeout: options.read_timeout,
        write_timeout: options.write_timeout,
        database_tag: options.bucket_tag.filter(|tag| !tag.is_empty()),
        policy_tag: None,
    };
    let claims = settings.check(section)?;
    Some(BuiltInput { input: AnyInput::Streaming(Box::new(Listener::new(settings))), claims })
}
