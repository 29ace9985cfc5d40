//! A notification as JSON: what actions send when nobody says how it should look.
//!
//! Apart so that every action sends the same document.

use weir_plugin_api::plugin::Notification;

/// One object with everything a notification says; `time` in RFC 3339.
pub fn json(notification: &Notification) -> String {
    let tags: serde_json::Map<_, _> = notification.tags.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    let time = jiff::Timestamp::from_nanosecond(notification.time.into()).map_or_else(|_| String::new(), |t| t.to_string());
    serde_json::json!({
        "alert": notification.alert,
        "state": notification.state,
        "severity": notification.severity,
        "tags": tags,
        "value": notification.value,
        "n": notification.n,
        "time": time,
        "historical": notification.historical,
        "idempotency_key": notification.idempotency_key,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_one_object() {
        let notification = Notification {
            alert: "overheat".into(),
            state: "firing".into(),
            severity: "critical".into(),
            tags: vec![("device".into(), "a\"b".into())],
            value: Some(81.5),
            n: 3,
            time: 1_700_000_000_000_000_000,
            historical: false,
            idempotency_key: "overheat/device=a\"b/3".into(),
        };
        assert_eq!(
            json(&notification),
            r#"{"alert":"overheat","historical":false,"idempotency_key":"overheat/device=a\"b/3","n":3,"severity":"critical","state":"firing","tags":{"device":"a\"b"},"time":"2023-11-14T22:13:20Z","value":81.5}"#
        );
    }
}
