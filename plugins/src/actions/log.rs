//! The log action: a line in the agent's own log for each transition.

use weir_plugin_api::{
    options::Section,
    plugin::{ActionEntry, AnyAction, BoxFuture, BuildContext, EdgeAction, Notification, Outcome},
};

weir_plugin_api::choice! {
    /// How loud a line is.
    pub enum LogLevel {
        /// A person must act.
        Error = "error",
        /// Something is wrong.
        Warn = "warn",
        /// Good to know.
        Info = "info",
        /// For those who look.
        Debug = "debug",
    }
}

weir_plugin_api::options! {
    /// Options of the log action.
    pub struct LogOptions {
        /// Level of the line.
        level: LogLevel = LogLevel::Warn,
    }
}

/// The registry's entry.
pub static ENTRY: ActionEntry =
    ActionEntry { name: "log", about: "writes a line to the log for each transition", specs: LogOptions::specs, unsupported: &[], build };

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<AnyAction> {
    let options = LogOptions::read(section)?;
    Some(AnyAction::Edge(Box::new(Log { level: options.level })))
}

struct Log {
    level: LogLevel,
}

macro_rules! line {
    ($level:ident, $n:expr) => {{
        let tags: Vec<String> = $n.tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
        tracing::$level!(alert = %$n.alert, state = %$n.state, severity = %$n.severity, tags = %tags.join(","), value = $n.value, n = $n.n, time = $n.time, historical = $n.historical, "alert")
    }};
}

impl EdgeAction for Log {
    fn fire<'a>(&'a mut self, notification: &'a Notification) -> BoxFuture<'a, Outcome> {
        match self.level {
            LogLevel::Error => line!(error, notification),
            LogLevel::Warn => line!(warn, notification),
            LogLevel::Info => line!(info, notification),
            LogLevel::Debug => line!(debug, notification),
        }
        Box::pin(async { Outcome::delivered() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tracing::{Event, Level, Metadata, Subscriber, span};

    use super::*;

    struct Counting(Arc<AtomicUsize>, Level);

    impl Subscriber for Counting {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            let named = event.metadata().fields().iter().any(|field| field.name() == "alert");
            self.0.fetch_add(usize::from(named && *event.metadata().level() == self.1), Ordering::SeqCst);
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_transition_is_one_line_of_the_chosen_level() {
        let point = Notification {
            alert: "a".into(),
            state: "firing".into(),
            severity: String::new(),
            tags: vec![],
            value: None,
            n: 1,
            time: 0,
            historical: false,
            idempotency_key: "a//1".into(),
        };
        for (level, expected) in [(LogLevel::Error, Level::ERROR), (LogLevel::Info, Level::INFO)] {
            let count = Arc::new(AtomicUsize::new(0));
            tracing::subscriber::with_default(Counting(Arc::clone(&count), expected), || {
                drop(Log { level }.fire(&point));
            });
            assert_eq!(count.load(Ordering::SeqCst), 1);
        }
    }
}
