//! Leaves the last file descriptors of the process to the store, the outputs and the control socket.
//!
//! Whoever opens connections, or makes files that are followed, would otherwise decide whether the journal gets its next file: a new
//! descriptor has the least number that is free, so one with a high number says how many there are.

use std::{io, os::fd::AsRawFd, sync::OnceLock};

/// Descriptors that connections and followed files leave alone, unless the limit is so low that this is more than half of it.
const RESERVED: i32 = 64;

/// What the system says when there are none left.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// Whether another connection may be accepted; those that wait meanwhile are kept by the system.
///
/// # Errors
/// It would have one of the last descriptors.
#[cfg(any(feature = "input-socket_listener", feature = "http-server"))]
pub(crate) fn room() -> io::Result<()> {
    room_by(std::fs::File::open("/dev/null"))
}

/// What cannot be opened for another reason, as in a root directory without devices, says nothing.
#[cfg(any(feature = "input-socket_listener", feature = "http-server"))]
fn room_by(opened: io::Result<std::fs::File>) -> io::Result<()> {
    match opened.and_then(spare) {
        Err(error) if is_shortage(&error) => Err(error),
        _ => Ok(()),
    }
}

/// The file that was just opened, unless it is one of the last that the process may have.
///
/// # Errors
/// It is one of the last; it is closed.
pub(crate) fn spare<F: AsRawFd>(opened: F) -> io::Result<F> {
    if is_spare(opened.as_raw_fd(), limit()) { Ok(opened) } else { Err(io::Error::from_raw_os_error(EMFILE)) }
}

/// Whether an error says that there are no descriptors left.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

fn is_spare(number: i32, limit: i32) -> bool {
    number < limit - RESERVED.min(limit / 2)
}

/// How many descriptors the process may have.
fn limit() -> i32 {
    static LIMIT: OnceLock<i32> = OnceLock::new();
    *LIMIT.get_or_init(|| std::fs::read_to_string("/proc/self/limits").ok().and_then(|text| soft_limit(&text)).unwrap_or(i32::MAX))
}

fn soft_limit(text: &str) -> Option<i32> {
    text.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_left_alone() {
        assert!(is_spare(959, 1024) && !is_spare(960, 1024), "64 of a usual limit");
        assert!(is_spare(31, 64) && !is_spare(32, 64), "half of a low one");
        assert!(is_spare(5000, i32::MAX), "none where there is no limit");
    }

    #[cfg(any(feature = "input-socket_listener", feature = "http-server"))]
    #[test]
    fn a_root_directory_without_devices_has_room() {
        assert!(room_by(std::fs::File::open("/none/dev/null")).is_ok());
        assert!(room_by(Err(io::Error::from_raw_os_error(ENFILE))).is_err());
    }

    #[test]
    fn the_limit_is_the_soft_one() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max processes             96200                96200                processes\n\
                    Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit(text), Some(1024));
        assert_eq!(soft_limit(&text.replace("1024  ", "unlimited")), None);
        assert!(limit() > 3, "the kernel says it of this process");
    }
}
