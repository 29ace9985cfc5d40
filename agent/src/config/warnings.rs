//! Where a configuration runs but gives up a promise, `weir check` says so. Telegraf's defaults stay Telegraf's, which is why some of these exist.

use weir_plugin_api::options::{FromNode, Section};

/// Warnings about one input.
pub fn input(plugin: &str, section: &Section<'_>) {
    match plugin {
        "mqtt_consumer" => mqtt(section),
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

/// Warnings about one output.
pub fn output(_plugin: &str, _section: &Section<'_>) {}

fn mqtt(section: &Section<'_>) {
    let qos = value::<u8>(section, "qos").unwrap_or(0);
    if qos == 0 {
        section.warn_at("qos", "with `qos = 0` the broker forgets what it could not deliver: set qos = 1 to lose nothing");
    } else if !value::<bool>(section, "persistent_session").unwrap_or(false) {
        section.warn_at("persistent_session", "without `persistent_session = true` messages are lost that arrive while weir is down");
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
