//! Addresses of brokers as Telegraf writes them: `tcp://host:1883`, `ssl://host:8883`, `host:1883`.

use weir_plugin_api::plugin::PluginError;

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name or address of the host.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The connection is TLS.
    pub tls: bool,
}

impl Address {
    /// Reads one.
    ///
    /// # Errors
    /// A scheme that is not spoken, no host, a port that is none. The text itself is not repeated: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, PluginError> {
        let (scheme, rest) = text.trim().split_once("://").unwrap_or(("tcp", text.trim()));
        let tls = match scheme {
            "tcp" | "mqtt" => false,
            "ssl" | "tls" | "mqtts" | "tcps" => true,
            "ws" | "wss" => return Err(PluginError::new("brokers over websockets are not supported")),
            other => return Err(PluginError::new(format!("unknown scheme `{other}://`: expected tcp, mqtt, ssl, tls or mqtts"))),
        };
        let rest = rest.split_once('/').map_or(rest, |(authority, _)| authority);
        if rest.contains('@') {
            return Err(PluginError::new("put user and password into `username` and `password`, not into the address"));
        }
        let default = if tls { 8883 } else { 1883 };
        let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((host, after)) => (host, after.strip_prefix(':')),
            None => rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(PluginError::new("the address names no host"));
        }
        let port = match port {
            None => default,
            Some(port) => port.parse().map_err(|_| PluginError::new("the port is no number between 0 and 65535"))?,
        };
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "ssl" } else { "tcp" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn telegrafs_forms_are_read() {
        for (text, expected) in [
            ("tcp://127.0.0.1:1884", "tcp://127.0.0.1:1884"),
            ("broker", "tcp://broker:1883"),
            ("broker:1", "tcp://broker:1"),
            ("ssl://broker", "ssl://broker:8883"),
            ("mqtts://[::1]:9", "ssl://[::1]:9"),
            ("tls://broker:8883/", "ssl://broker:8883"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn an_address_with_a_password_is_refused_without_repeating_it() {
        let error = Address::parse("tcp://me:hunter2@broker:1883").unwrap_err();
        assert!(!error.0.contains("hunter2"), "{error}");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["http://x", "tcp://", "tcp://x:port", "ws://x"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
