//! The operating system: clocks and the service manager. The only place that asks it for the time.

pub mod clock;
pub mod log;
pub mod machine;
pub mod notify;
