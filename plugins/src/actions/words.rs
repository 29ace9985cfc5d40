//! The parts of a notification in words, for environments and templates.

use weir_plugin_api::plugin::Notification;

/// Its time as RFC 3339 in UTC.
#[cfg(feature = "action-exec")]
pub(crate) fn time(notification: &Notification) -> String {
    jiff::Timestamp::from_nanosecond(notification.time.into()).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// Its `by` tags as `key=value,key=value`.
pub(crate) fn tags(notification: &Notification) -> String {
    notification.tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

/// Its value, empty when the condition has none.
pub(crate) fn value(notification: &Notification) -> String {
    notification.value.map(|v| v.to_string()).unwrap_or_default()
}

/// A notification for the tests of actions.
#[cfg(test)]
pub(crate) fn sample() -> Notification {
    Notification {
        alert: "overheat".into(),
        state: "firing".into(),
        severity: "critical".into(),
        tags: vec![("device".into(), "boiler \"1\"".into())],
        value: Some(81.5),
        n: 3,
        time: 1_700_000_000_000_000_000,
        historical: false,
        idempotency_key: "overheat/device=boiler \"1\"/3".into(),
    }
}
