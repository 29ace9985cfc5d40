//! The service manager's watchdog: fed while all of the agent lives, not by a core beside inputs and outputs that hang.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::{fs::OpenOptionsExt, net::UnixDatagram},
    path::Path,
    process::Command,
    time::Duration,
};

use super::{FOLLOW, append, folder, output};
use crate::support::{agent::Agent, eventually};

/// `O_NONBLOCK` of Linux.
const NONBLOCK: i32 = 0o4000;
/// What the service manager waits for before it starts the agent anew.
const LIMIT: Duration = Duration::from_secs(2);

/// Waits until it is told that the agent lives, for as long as a busy machine may take for that.
fn lives(manager: &UnixDatagram) {
    eventually("it is told that it lives", || is_fed(manager).then_some(()));
}

/// Whether it is told that the agent lives, within twice the limit.
fn is_fed(manager: &UnixDatagram) -> bool {
    let mut said = [0; 256];
    loop {
        match manager.recv(&mut said) {
            Ok(len) if said[..len].starts_with(b"WATCHDOG=1") => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                return false;
            }
        }
    }
}

/// Starts it with a pipe for its log, as a service has one, whose far end is the answer.
fn start(path: &Path) -> (Agent, UnixDatagram, fs::File) {
    let (socket, pipe) = (path.join("notify.sock"), path.join("log.pipe"));
    let manager = UnixDatagram::bind(&socket).expect("a notification socket");
    manager.set_read_timeout(Some(2 * LIMIT)).expect("a timeout");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let far = fs::File::options().read(true).write(true).open(&pipe).expect("the pipe opens");
    Agent::write_config(path, FOLLOW);
    let manages = format!("NOTIFY_SOCKET={} WATCHDOG_USEC={}", socket.display(), LIMIT.as_micros());
    let agent = Agent::spawn_under(path, &["sh", "-c", &format!("exec env {manages} \"$@\" 2> log.pipe"), "sh"]);
    agent.wait_ready();
    (agent, manager, far)
}

#[test]
fn the_watchdog_is_not_fed_while_inputs_and_outputs_hang() {
    let directory = folder();
    let path = directory.path();
    let (agent, manager, mut far) = start(path);
    lives(&manager);
    lives(&manager);

    // Nobody reads its log any more: the next line that is written there, of a reload, hangs whoever writes it.
    let mut near = fs::File::options().write(true).custom_flags(NONBLOCK).open(path.join("log.pipe")).expect("the pipe opens");
    let mut filled = 0;
    while let Ok(len) = near.write(&[b'.'; 1]) {
        filled += len;
    }
    agent.signal("HUP");
    eventually("it hangs", || (!is_fed(&manager)).then_some(()));
    append(path, "m v=1\n");
    assert!(!is_fed(&manager), "and does not come to itself");
    assert_eq!(output(path), "", "nothing is read meanwhile");

    let mut text = vec![0; filled];
    far.read_exact(&mut text).expect("the log is read again");
    eventually("it goes on", || output(path).contains("v=1").then_some(()));
    lives(&manager);
    drop(far);
}
