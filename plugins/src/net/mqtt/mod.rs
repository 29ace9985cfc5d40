//! MQTT for the input, the output and the action: options they share, one connection, and a publisher on top of it.
//!
//! The packets are rumqttc's; the connection is our own, because acknowledgements must leave in one write per commit and because a
//! packet that is too large must cost only itself.

use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use weir_plugin_api::options::{OptionSpec, Secret, Section};

use super::tls::{self, TlsOptions};

pub mod address;
pub mod connection;
pub mod publisher;
pub mod reconnect;
pub mod wire;

use address::Address;
use wire::Version;

weir_plugin_api::choice! {
    /// Version of MQTT.
    pub enum Protocol {
        /// Version 3.1.1.
        V311 = "3.1.1",
        /// Version 5.
        V5 = "5",
    }
}

impl From<Protocol> for Version {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::V311 => Self::V311,
            Protocol::V5 => Self::V5,
        }
    }
}

/// What a connection needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Brokers, tried in turn.
    pub servers: Vec<Address>,
    /// Our name at the broker.
    pub client_id: String,
    /// It is set in the configuration, so that another plugin may have the same.
    pub named: bool,
    /// User and password.
    pub login: Option<(String, Secret)>,
    /// TLS, for the servers that want it.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Version to speak; `None`: 5, and 3.1.1 where that is refused.
    pub version: Option<Version>,
    /// From the first packet of TCP to the broker's answer.
    pub connection_timeout: Duration,
    /// A packet at least this often; zero: never by itself.
    pub keepalive: Duration,
    /// How long the answer to a ping may take.
    pub ping_timeout: Duration,
    /// Messages the broker may send before they are acknowledged (version 5).
    pub receive_max: Option<u16>,
    /// Largest packet taken, bytes.
    pub packet_max: usize,
    /// Seconds the broker keeps our session after a disconnection (version 5), `u32::MAX` for ever.
    pub session_expiry: Option<u32>,
}

impl Settings {
    /// What a client must have to itself: a broker throws out whoever came before under the same name, and would go on doing so.
    pub fn claims(&self) -> Vec<String> {
        let id = self.named.then_some(&self.client_id);
        id.into_iter().flat_map(|id| self.servers.iter().map(move |server| format!("mqtt:client_id \"{id}\" at {server}"))).collect()
    }
}

/// Reads the addresses in `servers`; each bad one is reported.
pub fn servers(section: &Section<'_>, servers: &[String]) -> Option<Vec<Address>> {
    if servers.is_empty() {
        section.error_at("servers", "`servers` names no broker");
        return None;
    }
    let mut addresses = Vec::new();
    for (i, text) in servers.iter().enumerate() {
        match Address::parse(text) {
            Ok(address) => addresses.push(address),
            Err(error) => section.error_at("servers", format!("`servers` element {}: {error}", i + 1)),
        }
    }
    (addresses.len() == servers.len()).then_some(addresses)
}

/// The TLS configuration the servers need: from the options, or the system's where an address wants TLS without any.
/// TLS options that no address makes use of are reported.
pub fn tls(section: &Section<'_>, options: &TlsOptions, servers: &[Address]) -> Option<Option<Arc<rustls::ClientConfig>>> {
    if !servers.iter().any(|s| s.tls) {
        if options.is_set() {
            section.warn_at("servers", "TLS options are set, but no server has an ssl:// address: the connection is not encrypted");
        }
        return Some(None);
    }
    match tls::required_client_config(options) {
        Ok(config) => Some(Some(config)),
        Err(error) => {
            section.error_at("tls_ca", error.0);
            None
        }
    }
}

/// User and password as one; a password alone is reported, because version 3.1.1 can't send it.
pub fn login(section: &Section<'_>, username: Option<String>, password: Option<Secret>) -> Option<Option<(String, Secret)>> {
    match (username.filter(|u| !u.is_empty()), password.filter(|p| !p.is_empty())) {
        (None, None) => Some(None),
        (Some(user), password) => Some(Some((user, password.unwrap_or_default()))),
        (None, Some(_)) => {
            section.error_at("password", "`password` needs `username`");
            None
        }
    }
}

/// The client id of the options, or one that nobody else has.
pub fn client_id(configured: &str) -> String {
    if !configured.is_empty() {
        return configured.to_owned();
    }
    // The standard library's only source of randomness: the keys of its hash maps.
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("weir-{random:016x}")
}

weir_plugin_api::options! {
    /// Options of everything that publishes.
    pub struct ClientOptions {
        /// Brokers, tried in turn: `tcp://host:1883`, `ssl://host:8883`.
        servers: Vec<String>,
        /// Name at the broker; two clients of one name throw each other out. Without it a random one.
        client_id: String = String::new(),
        /// User name.
        username: Option<String> = None,
        /// Password.
        password: Option<Secret> = None,
        /// Version of MQTT, `3.1.1` or `5`; without it 5, and 3.1.1 where the broker refuses that.
        protocol: Option<Protocol> = None,
        /// A ping when nothing else was sent for that long; 0 for never.
        keep_alive: Duration = Duration::from_secs(30),
        /// How long connecting, and the broker's answer to a publish, may take.
        timeout: Duration = Duration::from_secs(5),
    }
}

impl ClientOptions {
    /// Reads and checks them and the TLS options.
    pub fn settings(section: &Section<'_>) -> Option<(Settings, Duration)> {
        let (options, tls_options) = (Self::read(section), TlsOptions::read(section));
        let (options, tls_options) = (options?, tls_options?);
        let servers = servers(section, &options.servers);
        let login = login(section, options.username, options.password);
        let servers = servers?;
        let tls = tls(section, &tls_options, &servers);
        if options.timeout.is_zero() {
            section.error_at("timeout", "`timeout` can't be zero");
            return None;
        }
        let settings = Settings {
            servers,
            client_id: client_id(&options.client_id),
            named: !options.client_id.is_empty(),
            login: login?,
            tls: tls?,
            version: options.protocol.map(Into::into),
            connection_timeout: options.timeout,
            keepalive: options.keep_alive,
            ping_timeout: Duration::from_secs(10),
            receive_max: None,
            packet_max: 1024 * 1024,
            session_expiry: None,
        };
        Some((settings, options.timeout))
    }

    /// Their documentation and that of the TLS options.
    pub fn all_specs() -> Vec<OptionSpec> {
        let mut specs = Self::specs();
        specs.extend(TlsOptions::specs());
        specs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clients_without_a_name_get_different_ones() {
        assert_ne!(client_id(""), client_id(""));
        assert_eq!(client_id("me"), "me");
    }
}
