//! The agent as its users run it: the built binary, a configuration file, signals, and what it says.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::{bounded, ended, eventually};

/// A running agent in a directory of its own.
pub struct Agent {
    child: Child,
    directory: PathBuf,
}

/// The built binary. `WEIR_BINARY` names another one, such as one for ARM, and `WEIR_RUNNER` what runs it, with its arguments:
/// `qemu-aarch64-static -L /usr/aarch64-linux-gnu`.
pub fn binary() -> Command {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let weir = variable("WEIR_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_weir").to_owned());
    let runner = variable("WEIR_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let mut command = match words.next() {
        Some(runner) => {
            let mut command = Command::new(runner);
            command.args(words).arg(weir);
            command
        }
        None => Command::new(weir),
    };
    for variable in ["WEIR_CONFIG_PATH", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "JOURNAL_STREAM"] {
        command.env_remove(variable);
    }
    command
}

/// The same by a command that is given it and its arguments.
fn executed_by(mut command: Command) -> Command {
    let agent = binary();
    command.arg(agent.get_program()).args(agent.get_args());
    for (name, value) in agent.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Runs the binary to its end with these arguments in `directory`.
pub fn run(directory: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = executed_by(bounded())
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // An agent that refuses its configuration reads nothing.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("the writer ends");
    output
}

impl Agent {
    /// Writes `config` (with the store and socket of this directory added) and starts `weir run`; waits until it is ready.
    pub fn start(directory: &Path, config: &str) -> Self {
        let agent = Self::spawn(directory, config);
        agent.wait_ready();
        agent
    }

    /// The same without waiting.
    pub fn spawn(directory: &Path, config: &str) -> Self {
        Self::write_config(directory, config);
        Self::spawn_written(directory)
    }

    /// Starts the configuration that lies in the directory.
    pub fn spawn_written(directory: &Path) -> Self {
        Self::spawn_command(directory, binary())
    }

    /// The same by a command that is given the agent's own and ends by executing it.
    pub fn spawn_under(directory: &Path, by: &[&str]) -> Self {
        let mut command = Command::new(by[0]);
        command.args(&by[1..]);
        Self::spawn_command(directory, executed_by(command))
    }

    fn spawn_command(directory: &Path, mut command: Command) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).expect("a log file");
        let child = command
            .args(["run", "--config", "weir.toml"])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        Self { child, directory: directory.to_owned() }
    }

    /// Starts the binary with these arguments, its standard input open; what it says is appended to the files `stdout` and `log`.
    pub fn spawn_fed(directory: &Path, arguments: &[&str]) -> (Self, ChildStdin) {
        let open = |name| fs::OpenOptions::new().create(true).append(true).open(directory.join(name)).expect("a file for what it says");
        let mut child = binary()
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(open("stdout"))
            .stderr(open("log"))
            .spawn()
            .expect("the binary runs");
        let stdin = child.stdin.take().expect("piped");
        (Self { child, directory: directory.to_owned() }, stdin)
    }

    /// Writes the configuration file.
    pub fn write_config(directory: &Path, config: &str) {
        let own = [
            ("[storage]\n", format!("directory = {:?}\n", directory.join("state"))),
            ("[status]\n", format!("socket = {:?}\n", directory.join("control.sock"))),
        ];
        let text = own.into_iter().fold(config.to_owned(), |text, (table, own)| match text.split_once(table) {
            Some((before, after)) => format!("{before}{table}{own}{after}"),
            None => format!("{text}\n{table}{own}"),
        });
        fs::write(directory.join("weir.toml"), text).expect("the configuration is written");
    }

    /// Waits until it says it is ready.
    pub fn wait_ready(&self) {
        eventually(&format!("agent ready; its log:\n{}", self.log()), || self.get("/ready").filter(|(code, _)| *code == 200));
    }

    /// A GET on the control socket: status code and body.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.directory.join("control.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: weir\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// The status report.
    pub fn status(&self) -> Value {
        let (_, body) = eventually("a status report", || self.get("/status").filter(|(code, _)| *code == 200));
        serde_json::from_str(&body).expect("status is JSON")
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Writes what its threads are doing to the file `threads`, for a test that fails because it does nothing.
    fn note_threads(&self) {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let of = |task: &Path, what: &str| fs::read_to_string(task.join(what)).unwrap_or_default();
        let threads = tasks.map(|task| {
            let task = task.path();
            format!("{}{}\n{}\n", of(&task, "comm"), of(&task, "wchan"), of(&task, "stat"))
        });
        let _ = fs::write(self.directory.join("threads"), threads.collect::<String>());
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -{name}");
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is reaped");
    }

    /// Its exit status, when it has come to its end.
    pub fn end(mut self) -> ExitStatus {
        ended(&mut self.child, "the agent")
    }

    /// SIGTERM, and its exit status.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal("TERM");
        ended(&mut self.child, "the agent")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.note_threads();
        }
        // A test that failed leaves no process behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
