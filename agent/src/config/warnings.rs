//! Listeners that more than this machine can reach: they run, but `weir check` says so. What else gives up a promise is said where the
//! option is read.

use weir_plugin_api::options::{FromNode, Section};

/// Warnings about one input.
pub fn input(plugin: &str, section: &Section<'_>) {
    match plugin {
        "socket_listener" => exposed(section, "service_address", "anyone who reaches it can send points"),
        "influxdb_listener" if !section.has("basic_password") => {
            exposed(section, "service_address", "anyone who reaches it can send points: set basic_username and basic_password");
        }
        "influxdb_v2_listener" if !section.has("token") => {
            exposed(section, "service_address", "anyone who reaches it can send points: set a token");
        }
        _ => {}
    }
}

/// A value for looking at it only: wrong ones have been reported.
fn value<T: FromNode>(section: &Section<'_>, key: &'static str) -> Option<T> {
    section.node(key).and_then(|node| T::from_node(node, section, key).ok())
}

/// Warns when an address is not of this machine only.
fn exposed(section: &Section<'_>, key: &'static str, why: &str) {
    let Some(address) = value::<String>(section, key) else { return };
    let (scheme, rest) = address.split_once("://").unwrap_or(("tcp", address.as_str()));
    if scheme.starts_with("unix") {
        return;
    }
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    let loopback = host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !loopback {
        section.warn_at(key, format!("this address is not of this machine only: {why}"));
    }
}
