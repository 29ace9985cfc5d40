//! Real servers for the tests of plugins: started on a free port in a directory of their own, killed when the test lets go of them.
//!
//! Shared by the test files, each of which uses a part of it.
#![allow(dead_code)]

#[path = "../../../tests/support/ports.rs"]
mod ports;

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub use ports::free_port;
use tempfile::TempDir;
use weir_plugin_api::{
    options::{Diagnostics, Item, Node, Place, Section, Table},
    plugin::BuildContext,
};

/// Longest time anything in a test may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, at most for [`PATIENCE`].
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "still not after {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A process that is killed with its handle.
pub struct Process(Child);

impl Process {
    /// Starts it, its output going to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("the log can be written");
        let copy = file.try_clone().expect("the log can be shared");
        Self(command.stdin(Stdio::null()).stdout(file).stderr(copy).spawn().expect("the program is installed"))
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until something listens on `port`.
pub fn wait_for_port(port: u16, log: &Path) {
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        assert!(start.elapsed() < PATIENCE, "nothing listens on {port}: {}", said());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An MQTT broker.
pub struct Mosquitto {
    /// Its port.
    pub port: u16,
    /// Its directory.
    pub directory: TempDir,
    process: Process,
}

impl Mosquitto {
    /// One with `extra` lines of configuration; `{dir}` in them is its directory.
    pub fn with(extra: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self::in_directory(directory, extra)
    }

    /// One that needs files in its directory.
    pub fn in_directory(directory: TempDir, extra: &str) -> Self {
        let port = free_port();
        let path = directory.path();
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\nautosave_interval 1\n\
             autosave_on_changes true\nlog_type all\nmax_queued_messages 0\n{}\n",
            path.display(),
            extra.replace("{dir}", &path.display().to_string())
        );
        std::fs::write(path.join("mosquitto.conf"), config).expect("the directory can be written");
        let process = Self::spawn(path, port);
        Self { port, directory, process }
    }

    /// A plain one.
    pub fn start() -> Self {
        Self::with("")
    }

    fn spawn(path: &Path, port: u16) -> Process {
        let program = if Path::new("/usr/sbin/mosquitto").exists() { "/usr/sbin/mosquitto" } else { "mosquitto" };
        // As root it would drop its rights and could not write its directory.
        let mut config = std::fs::read_to_string(path.join("mosquitto.conf")).expect("written before");
        if !config.contains("\nuser ") {
            config.push_str(&format!("\nuser {}\n", std::env::var("USER").unwrap_or_else(|_| "root".into())));
            std::fs::write(path.join("mosquitto.conf"), config).expect("the directory can be written");
        }
        let log = path.join("log");
        let process = Process::start(Command::new(program).arg("-c").arg(path.join("mosquitto.conf")), &log);
        wait_for_port(port, &log);
        process
    }

    /// Its address as plugins take it.
    pub fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let pid = self.process.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill runs").success());
    }

    /// Asks it to stop, so that it saves its sessions, and waits for its end.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let _ = self.process.0.wait();
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its port.
    pub fn start_again(&mut self) {
        self.process = Self::spawn(self.directory.path(), self.port);
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Publishes with QoS 1 and waits for the broker's word.
    pub fn publish(&self, topic: &str, payload: &[u8]) {
        self.publish_with(topic, payload, &["-q", "1"]);
    }

    /// Publishes with more arguments of `mosquitto_pub`.
    pub fn publish_with(&self, topic: &str, payload: &[u8], arguments: &[&str]) {
        let file = self.directory.path().join("payload");
        std::fs::write(&file, payload).expect("the directory can be written");
        let port = self.port.to_string();
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-t", topic]).args(arguments);
        if payload.is_empty() {
            command.arg("-n");
        } else {
            command.arg("-f").arg(&file);
        }
        assert!(command.status().expect("mosquitto_pub is installed").success());
    }

    /// Publishes each line as a message of its own, over one connection.
    pub fn publish_lines(&self, topic: &str, lines: &str) {
        use std::io::Write;
        let port = self.port.to_string();
        let mut child = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-t", topic, "-q", "1", "-l"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("mosquitto_pub is installed");
        child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("it reads");
        assert!(child.wait().expect("it ran").success());
    }
}

/// What a subscriber sees, `topic payload` per message; it is subscribed when this returns.
pub struct Subscriber {
    process: Process,
    file: PathBuf,
}

impl Subscriber {
    /// Subscribes to everything on `broker`.
    pub async fn start(broker: &Mosquitto) -> Self {
        let file = broker.directory.path().join(format!("seen-{}", free_port()));
        let port = broker.port.to_string();
        let name = format!("subscriber-{}", free_port());
        let mut command = Command::new("mosquitto_sub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-t", "#", "-q", "1", "-F", "%r %t %p", "-i", &name]);
        let process = Process::start(&mut command, &file);
        let subscribed = format!("Sending SUBACK to {name}");
        eventually("the subscriber", || broker.log().contains(&subscribed)).await;
        Self { process, file }
    }

    /// Waits for `count` lines of messages, not counting empty ones: `retained topic payload`.
    pub async fn messages(&self, count: usize) -> Vec<String> {
        let read = || {
            let text = std::fs::read_to_string(&self.file).unwrap_or_default();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            whole.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        eventually(&format!("{count} lines"), || read().len() >= count).await;
        read()
    }
}

/// A certificate authority's own certificate for 127.0.0.1 and localhost, and its key: (`cert.pem`, `key.pem`).
pub fn certificate(directory: &Path) -> (PathBuf, PathBuf) {
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    let status = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=DNS:localhost,DNS:broker.example,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-out")
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed");
    assert!(status.success());
    (cert, key)
}

/// A value of a configuration.
pub fn node(item: Item) -> Node {
    Node { place: Place::default(), item, secret: false }
}

/// A list of strings.
pub fn texts(items: &[&str]) -> Item {
    Item::Array(items.iter().map(|t| node(Item::Text((*t).to_owned()))).collect())
}

/// A string.
pub fn text(text: impl Into<String>) -> Item {
    Item::Text(text.into())
}

/// A table of a configuration.
pub fn table(entries: Vec<(&str, Item)>) -> Table {
    Table { entries: entries.into_iter().map(|(k, item)| (k.to_owned(), Place::default(), node(item))).collect() }
}

/// Builds a plugin by its entry; what was wrong if it can't be.
pub fn build<T>(entry: &weir_plugin_api::plugin::Entry<T>, options: Vec<(&str, Item)>) -> Result<T, Vec<String>> {
    build_in(&std::env::temp_dir(), entry, options)
}

/// The same with a state directory of its own.
pub fn build_in<T>(directory: &Path, entry: &weir_plugin_api::plugin::Entry<T>, options: Vec<(&str, Item)>) -> Result<T, Vec<String>> {
    let context = BuildContext {
        name: entry.name.into(),
        interval: Duration::from_secs(10),
        internal: std::sync::Arc::new(Vec::new),
        directory: directory.to_owned(),
    };
    let (table, diagnostics) = (table(options), Diagnostics::default());
    let section = Section::new(entry.name, &table, Place::default(), &diagnostics);
    let built = (entry.build)(&section, &context);
    section.finish(entry.unsupported);
    let errors = diagnostics.errors();
    match built {
        Some(built) if errors == 0 => Ok(built),
        _ => Err(diagnostics.take().into_iter().map(|d| d.message).collect()),
    }
}
