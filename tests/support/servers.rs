//! Real servers, each on a free port of loopback with its files in the test's own directory, ended when dropped.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{bounded, ended, eventually, free_port};

/// A server process.
pub struct Server {
    child: Child,
    /// Its port on 127.0.0.1.
    pub port: u16,
    start: Box<dyn Fn() -> Child + Send>,
}

impl Server {
    fn new(port: u16, start: impl Fn() -> Child + Send + 'static) -> Self {
        let server = Self { child: start(), port, start: Box::new(start) };
        server.wait();
        server
    }

    fn wait(&self) {
        eventually("the server listens", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// `kill -9`: the server is gone until [`Server::restart`].
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is reaped");
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -{name}");
    }

    /// SIGTERM, and waits for its end: a broker saves its sessions.
    pub fn stop(&mut self) {
        self.signal("TERM");
        ended(&mut self.child, "the server");
    }

    /// Starts it again on the same port and files.
    pub fn restart(&mut self) {
        self.child = (self.start)();
        self.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn quiet(command: &mut Command, log: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("a log file");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log).spawn().expect("the server starts")
}

/// Where downloaded archives are kept.
pub fn cache() -> PathBuf {
    std::env::var_os("WEIR_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache/weir"), PathBuf::from)
}

/// mosquitto with persistence in `directory`; `more` is added to its configuration.
pub fn mosquitto(directory: &Path, more: &str) -> Server {
    let port = free_port();
    let config = directory.join("mosquitto.conf");
    let user = if rustix::process::geteuid().is_root() { "user root\n" } else { "" };
    fs::write(
        &config,
        format!(
            "{user}listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\nautosave_interval 1\nautosave_on_changes true\nmax_queued_messages 0\n{more}\n",
            directory.display()
        ),
    )
    .expect("mosquitto's configuration is written");
    let log = directory.join("mosquitto.log");
    Server::new(port, move || quiet(Command::new("/usr/sbin/mosquitto").arg("-c").arg(&config), &log))
}

/// InfluxDB 1.x.
pub fn influxdb(directory: &Path) -> Server {
    let (port, rpc) = (free_port(), free_port());
    let config = directory.join("influxdb.conf");
    let at = directory.display();
    fs::write(
        &config,
        format!(
            "reporting-disabled = true\nbind-address = \"127.0.0.1:{rpc}\"\n[meta]\ndir = \"{at}/meta\"\n[data]\ndir = \"{at}/data\"\nwal-dir = \"{at}/wal\"\nquery-log-enabled = false\n[http]\nbind-address = \"127.0.0.1:{port}\"\nlog-enabled = false\n[monitor]\nstore-enabled = false\n"
        ),
    )
    .expect("influxd's configuration is written");
    let log = directory.join("influxdb.log");
    Server::new(port, move || quiet(Command::new("influxd").arg("-config").arg(&config), &log))
}

/// A query against InfluxDB 1.x, the first series of its answer as rows of text.
pub fn influx_query(port: u16, database: &str, query: &str) -> Option<Vec<Vec<serde_json::Value>>> {
    let encoded: String =
        query.bytes().map(|b| if b.is_ascii_alphanumeric() { (b as char).to_string() } else { format!("%{b:02X}") }).collect();
    let (code, body) = http_get(port, &format!("/query?db={database}&epoch=ns&q={encoded}"))?;
    if code != 200 {
        return None;
    }
    let answer: serde_json::Value = serde_json::from_str(&body).ok()?;
    let series = answer["results"][0].get("series")?.as_array()?.clone();
    Some(series.iter().flat_map(|s| s["values"].as_array().cloned().unwrap_or_default()).filter_map(|r| r.as_array().cloned()).collect())
}

/// A GET: status and body.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let url = format!("http://127.0.0.1:{port}{path}");
    let output = Command::new("curl").args(["-s", "--max-time", "20", "-w", "\n%{http_code}", &url]).output().expect("curl runs");
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = answer.rsplit_once('\n')?;
    Some((code.parse().ok()?, body.to_owned()))
}

/// QuestDB, a store that takes InfluxDB 2 writes.
pub fn questdb(directory: &Path) -> Server {
    let port = free_port();
    let root = directory.join("questdb");
    fs::create_dir_all(root.join("conf")).expect("QuestDB's folder");
    fs::write(
        root.join("conf/server.conf"),
        format!("http.bind.to=127.0.0.1:{port}\nhttp.min.enabled=false\npg.enabled=false\nline.tcp.enabled=false\nline.udp.enabled=false\ntelemetry.enabled=false\nshared.worker.count=1\nconfig.validation.strict=false\n"),
    )
    .expect("QuestDB's configuration is written");
    let log = directory.join("questdb.log");
    let jars = cache().join("questdb-9.3.2/lib");
    Server::new(port, move || {
        quiet(
            Command::new("java").args(["-Xmx512m", "-p"]).arg(&jars).args(["-m", "io.questdb/io.questdb.ServerMain", "-d"]).arg(&root),
            &log,
        )
    })
}

/// A Java that is not to live long: a third less CPU until Kafka answers.
const QUICK_JAVA: [&str; 2] = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// Apache Kafka, one node. It keeps everything: the readings of tests are years old, and by their age it would delete them.
pub fn kafka(directory: &Path) -> Server {
    let (port, controller) = (free_port(), free_port());
    let server = kafka_node(
        directory,
        "kafka",
        port,
        &format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\nlisteners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n{}",
            broker_lines(port)
        ),
    );
    kafka_answers(port);
    server
}

/// Apache Kafka with its controller apart, for tests that kill the broker while transactions are under way.
///
/// A killed node that is its own controller replays that it leads its partitions, takes up the transactions whose markers are to be written,
/// and drops those markers when its former registration times out, for then no partition has a leader: committed messages that no reader
/// of such sees (Kafka 4.3.1). In a cluster the controller has long noticed the death when the broker is back, and so it has here.
pub struct Kafka {
    broker: Server,
    _controller: Server,
    log: PathBuf,
    deaths: usize,
    pub port: u16,
}

impl Kafka {
    pub fn start(directory: &Path) -> Self {
        let (port, controller_port) = (free_port(), free_port());
        let voters = format!("controller.quorum.voters=100@127.0.0.1:{controller_port}\n");
        let controller = kafka_node(
            directory,
            "controller",
            controller_port,
            &format!("process.roles=controller\nnode.id=100\n{voters}listeners=CONTROLLER://127.0.0.1:{controller_port}\n{BOTH_LINES}"),
        );
        let broker = kafka_node(
            directory,
            "kafka",
            port,
            &format!("process.roles=broker\nnode.id=1\n{voters}listeners=PLAINTEXT://127.0.0.1:{port}\n{}", broker_lines(port)),
        );
        kafka_answers(port);
        Self { broker, _controller: controller, log: directory.join("controller.log"), deaths: 0, port }
    }

    /// `kill -9` of the broker.
    pub fn kill(&mut self) {
        self.deaths = self.noticed();
        self.broker.kill();
    }

    /// Starts the broker again when the controller has noticed its death.
    pub fn restart(&mut self) {
        eventually("the controller notices the broker's death", || (self.noticed() > self.deaths).then_some(()));
        self.broker.restart();
    }

    fn noticed(&self) -> usize {
        fs::read_to_string(&self.log).expect("the controller's log").matches("Fencing broker 1 ").count()
    }
}

/// What broker and controller have to agree on.
const BOTH_LINES: &str = "controller.listener.names=CONTROLLER\nlistener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\nbroker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=500\n";

fn broker_lines(port: u16) -> String {
    format!(
        "{BOTH_LINES}advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ninter.broker.listener.name=PLAINTEXT\nnum.partitions=1\noffsets.topic.num.partitions=4\noffsets.topic.replication.factor=1\ntransaction.state.log.num.partitions=4\ntransaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\nlog.flush.interval.messages=1\nlog.retention.ms=-1\n"
    )
}

/// One process of Kafka, listening on `port`: its files begin with `name`.
fn kafka_node(directory: &Path, name: &str, port: u16, lines: &str) -> Server {
    let (config, data) = (directory.join(format!("{name}.properties")), directory.join(format!("{name}-data")));
    fs::write(&config, format!("{lines}log.dirs={}\n", data.display())).expect("Kafka's configuration is written");
    let class_path = format!("{}/*", cache().join("kafka-4.3.1/lib").display());
    let log = directory.join(format!("{name}.log"));
    let mut format = Command::new("java");
    format
        .args(QUICK_JAVA)
        .args(["-cp", &class_path, "kafka.tools.StorageTool", "format", "--cluster-id", "AAAAAAAAQACAAAAAAAAAAQ", "--config"])
        .arg(&config);
    assert!(ended(&mut quiet(&mut format, &log), "the formatter").success(), "Kafka's storage is formatted: {}", log.display());
    Server::new(port, move || {
        quiet(Command::new("java").args(QUICK_JAVA).args(["-Xms256m", "-Xmx512m", "-cp", &class_path, "kafka.Kafka"]).arg(&config), &log)
    })
}

fn kafka_answers(port: u16) {
    eventually("Kafka answers", || {
        let answer = bounded().args(["kcat", "-b", &format!("127.0.0.1:{port}"), "-L", "-m", "1"]).output().ok()?;
        answer.status.success().then_some(())
    });
}

/// Everything in a topic, one line per record.
pub fn kafka_read(port: u16, topic: &str) -> Vec<String> {
    let output = bounded()
        .args(["kcat", "-b", &format!("127.0.0.1:{port}"), "-C", "-t", topic, "-o", "beginning", "-e", "-q"])
        .output()
        .expect("kcat runs");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
