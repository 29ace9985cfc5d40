//! Destinations that refuse, hang or answer for somebody else, from outside: what is told, what is kept, and who must not suffer.

use std::{
    fs,
    io::{BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{append, folder, output};
use crate::support::{agent::Agent, eventually, http::next_body};

/// A server that answers every request with the same bytes, until told otherwise; with none it says nothing and keeps the connection.
struct Scripted {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    answer: Vec<u8>,
    requests: usize,
    /// Bodies answered with 204.
    taken: Vec<String>,
    hanging: Vec<TcpStream>,
}

impl Scripted {
    fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Mutex::new(Shared { answer: answer.into(), ..Shared::default() }));
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = Arc::clone(&server);
                std::thread::spawn(move || serve(stream, &server));
            }
        });
        Self { port, shared }
    }

    fn answer(&self, answer: &str) {
        self.shared.lock().expect("not poisoned").answer = answer.into();
    }

    fn requests(&self) -> usize {
        self.shared.lock().expect("not poisoned").requests
    }

    fn taken(&self) -> String {
        self.shared.lock().expect("not poisoned").taken.concat()
    }
}

fn serve(stream: TcpStream, shared: &Mutex<Shared>) {
    let mut stream = BufReader::new(stream);
    while let Some(body) = next_body(&mut stream) {
        let answer = {
            let mut shared = shared.lock().expect("not poisoned");
            shared.requests += 1;
            if shared.answer.starts_with(b"HTTP/1.1 204") {
                shared.taken.push(String::from_utf8(body).expect("lines of text"));
            }
            if shared.answer.is_empty() {
                shared.hanging.push(stream.into_inner());
                return;
            }
            shared.answer.clone()
        };
        if stream.get_mut().write_all(&answer).is_err() {
            return;
        }
    }
}

const TAKES: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const REFUSES: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}";
const PORTAL: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 26\r\n\r\n<html>please pay</html>   ";
const HANGS: &str = "";

/// For stops that find an output hanging, and what such a stop may take: less than it does without the option, and all the rest of that for
/// a busy machine.
const SHORT_STOP: &str = "shutdown_timeout = \"300ms\"\n";
const STOP_MAX: Duration = Duration::from_millis(4900);

fn config(port: u16, agent: &str, timeout: &str) -> String {
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n{agent}[[inputs.tail]]\nfiles = [\"in.lp\"]\nfrom_beginning = true\npath_tag = \"\"\n\
         [[outputs.file]]\nfiles = [\"out.lp\"]\n\
         [[outputs.influxdb_v2]]\nalias = \"cloud\"\nurls = [\"http://127.0.0.1:{port}\"]\nbucket = \"b\"\ntoken = \"s3cret\"\ntimeout = \"{timeout}\"\ncontent_encoding = \"identity\"\n"
    )
}

fn alerts(directory: &Path) -> Vec<String> {
    output(directory).lines().filter(|l| l.starts_with("weir_alert")).map(str::to_owned).collect()
}

#[test]
fn a_held_output_is_an_alert_that_survives_kill_9_and_ends_when_somebody_acts() {
    let directory = folder();
    let server = Scripted::start(REFUSES);
    append(directory.path(), "m a=1 1700000001000000000\n");
    let more = "alert_actions = [\"ops\"]\nalert_severity = \"critical\"\n";
    let action = "[[actions.exec]]\nalias = \"ops\"\ncommand = [\"/bin/sh\", \"-c\", \"cat >> told; echo >> told\"]\n";
    let agent = Agent::start(directory.path(), &(config(server.port, more, "5s") + action));
    eventually("the alert is with the other output", || (alerts(directory.path()).len() == 1).then_some(()));
    let firing = alerts(directory.path()).remove(0);
    assert!(
        firing.starts_with("weir_alert,alert=output_held,output=cloud,severity=critical state=\"firing\",value=1,n=1i,historical=false "),
        "{firing}"
    );
    let told = || fs::read_to_string(directory.path().join("told")).unwrap_or_default();
    eventually("the action is told", || told().contains("output_held").then_some(()));
    assert!(agent.log().contains("alert output_held firing, output cloud, 1 points"), "{}", agent.log());
    assert!(!agent.log().contains("s3cret"));
    eventually("the delivery is on the disk", || (agent.status()["outputs"][0]["delivered"] == 2).then_some(()));
    // Durable with the next record: another reading follows.
    append(directory.path(), "m a=2 1700000002000000000\n");
    eventually("the reading is through", || output(directory.path()).contains("a=2").then_some(()));
    agent.kill();

    let before = server.requests();
    let agent = Agent::spawn_written(directory.path());
    agent.wait_ready();
    eventually("it tries again and is refused", || (server.requests() > before).then_some(()));
    append(directory.path(), "m a=3 1700000003000000000\n");
    eventually("others are not held", || output(directory.path()).contains("a=3").then_some(()));
    assert_eq!(alerts(directory.path()), std::slice::from_ref(&firing), "nothing has changed, nothing is told");
    assert!(agent.terminate().success());

    server.answer(TAKES);
    let agent = Agent::spawn_written(directory.path());
    eventually("the end is told", || (alerts(directory.path()).len() == 2).then_some(()));
    let resolved = alerts(directory.path()).remove(1);
    assert!(resolved.contains("output=cloud") && resolved.contains("state=\"resolved\"") && resolved.contains("n=2i"), "{resolved}");
    eventually("everything arrives, the alert too", || {
        let taken = server.taken();
        ["a=1", "a=2", "a=3", &*firing, &*resolved].iter().all(|line| taken.contains(line)).then_some(())
    });
    assert!(agent.terminate().success());
}

#[test]
fn an_action_that_is_held_is_told_to_the_outputs() {
    let directory = folder();
    let (store, hook) = (Scripted::start(TAKES), Scripted::start(REFUSES));
    append(directory.path(), "m a=1 1700000001000000000\n");
    let action = format!(
        "[[alerts]]\nname = \"high\"\nwhen = \"a > 0\"\nactions = [\"ops\"]\n[[actions.webhook]]\nalias = \"ops\"\nurl = \"http://127.0.0.1:{}/hook\"\n",
        hook.port
    );
    let agent = Agent::start(directory.path(), &(config(store.port, "", "5s") + &action));
    eventually("both stores know", || {
        let held = |text: &str| text.lines().any(|l| l.starts_with("weir_alert,alert=output_held,output=ops,") && l.contains("firing"));
        (held(&output(directory.path())) && held(&store.taken())).then_some(())
    });
    assert!(agent.terminate().success());
}

#[test]
fn a_portal_takes_nothing_from_the_store() {
    let directory = folder();
    let server = Scripted::start(PORTAL);
    append(directory.path(), "m a=1 1700000001000000000\n");
    let agent = Agent::start(directory.path(), &config(server.port, "", "5s"));
    eventually("it is asked again", || (server.requests() >= 2).then_some(()));
    let status = agent.status();
    assert_eq!(status["outputs"][1]["delivered"], 0, "{status}");
    assert!(agent.log().contains("a web page"), "{}", agent.log());
    server.answer(TAKES);
    eventually("what waited arrives", || server.taken().contains("m a=1").then_some(()));
    assert!(agent.terminate().success());
}

#[test]
fn a_destination_that_hangs_delays_neither_the_others_nor_a_stop() {
    let directory = folder();
    let server = Scripted::start(HANGS);
    append(directory.path(), "m a=1 1700000001000000000\n");
    // The write hangs far longer than a stop may take.
    let agent = Agent::start(directory.path(), &config(server.port, SHORT_STOP, "300s"));
    eventually("the write hangs", || (server.requests() == 1).then_some(()));
    for n in 2..20 {
        append(directory.path(), &format!("m a={n} 17000000{n:02}000000000\n"));
        eventually("the other output goes on", || output(directory.path()).contains(&format!("a={n} ")).then_some(()));
    }
    let start = Instant::now();
    assert!(agent.terminate().success());
    assert!(start.elapsed() < STOP_MAX, "stopping took {:?}", start.elapsed());
    server.answer(TAKES);
    let agent = Agent::spawn_written(directory.path());
    eventually("nothing is lost", || (1..20).all(|n| server.taken().contains(&format!("a={n} "))).then_some(()));
    assert!(agent.terminate().success());
}

#[test]
fn a_held_output_does_not_delay_a_stop() {
    let directory = folder();
    let server = Scripted::start(REFUSES);
    append(directory.path(), "m a=1 1700000001000000000\n");
    let agent = Agent::start(directory.path(), &config(server.port, "shutdown_timeout = \"30s\"\n", "5s"));
    eventually("it is held", || (agent.status()["outputs"][1]["failing_until_someone_acts"] == 1).then_some(()));
    let start = Instant::now();
    assert!(agent.terminate().success());
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
}

#[test]
fn a_server_that_wants_to_be_asked_again_at_once_is_not_asked_in_a_loop() {
    let directory = folder();
    let server = Scripted::start("HTTP/1.1 503 X\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n");
    append(directory.path(), "m a=1 1700000001000000000\n");
    let agent = Agent::start(directory.path(), &config(server.port, "", "5s"));
    eventually("it was asked three times", || (server.requests() >= 3).then_some(()));
    let retries = agent.status()["outputs"][1]["retries"].as_u64().expect("a number");
    assert!(retries < 20, "{retries}");
    assert!(agent.terminate().success());
}

/// What a server of version 2 says about the line `m a=1 1700000001000000000`.
fn names_the_line() -> String {
    let body = r#"{"code":"invalid","message":"unable to parse 'm a=1 1700000001000000000': wrong\ntype"}"#;
    format!("HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_refused_point_is_kept_with_the_reason_and_counted() {
    let directory = folder();
    let server = Scripted::start(&names_the_line());
    append(directory.path(), "m a=1 1700000001000000000\n");
    let agent = Agent::start(directory.path(), &config(server.port, "", "5s"));
    let letters = || fs::read_to_string(directory.path().join("state/dead-letters-cloud.lp")).unwrap_or_default();
    eventually("the letter is there", || (letters() == "# 400: wrong type\nm a=1 1700000001000000000\n").then_some(()));
    eventually("and counted", || {
        let line = &agent.status()["outputs"][1];
        (line["rejected"] == 1 && line["dead_letters"] == 1 && line["dead_letters_dropped"] == 0).then_some(())
    });
    let (_, metrics) = agent.get("/metrics").expect("metrics");
    assert!(metrics.contains("weir_output_dead_letters_total{output=\"cloud\"} 1"), "{metrics}");
    assert!(agent.terminate().success());
}

#[test]
fn a_disk_that_swallows_dead_letters_holds_up_neither_delivery_nor_a_stop() {
    let directory = folder();
    let server = Scripted::start(&names_the_line());
    fs::create_dir(directory.path().join("state")).expect("a state directory");
    let fifo = std::process::Command::new("mkfifo").arg(directory.path().join("state/dead-letters-cloud.lp")).status();
    assert!(fifo.expect("mkfifo runs").success());
    append(directory.path(), "m a=1 1700000001000000000\n");
    let agent = Agent::start(directory.path(), &config(server.port, SHORT_STOP, "5s"));
    eventually("it is given up", || (agent.status()["outputs"][1]["dead_letters_dropped"] == 1).then_some(()));
    server.answer(TAKES);
    append(directory.path(), "m a=2 1700000002000000000\n");
    eventually("delivery goes on", || server.taken().contains("a=2").then_some(()));
    let start = Instant::now();
    assert!(agent.terminate().success());
    assert!(start.elapsed() < STOP_MAX, "{:?}", start.elapsed());
}

#[test]
fn a_dead_disk_that_stalls_everything_is_told_to_the_actions_past_the_store() {
    let directory = folder();
    let (server, ops) = (Scripted::start(TAKES), Scripted::start(TAKES));
    append(directory.path(), "m a=1 1700000001000000000\n");
    let action = format!("[[actions.webhook]]\nalias = \"ops\"\nurl = \"http://127.0.0.1:{}/\"\n", ops.port);
    Agent::write_config(directory.path(), &(config(server.port, "alert_actions = [\"ops\"]\n", "5s") + &action));
    // A forbidden write is told by a signal, too, and that must not end the agent.
    let agent = Agent::spawn_under(directory.path(), &["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    eventually("the first reading", || server.taken().contains("a=1").then_some(()));
    let limited = std::process::Command::new("prlimit").args(["--pid", &agent.pid().to_string(), "--fsize=0:"]).status();
    assert!(limited.expect("prlimit runs").success());
    append(directory.path(), "m a=2 1700000002000000000\n");
    let told = eventually("the action is told", || Some(ops.taken()).filter(|t| !t.is_empty()));
    assert!(told.contains("storage_failed") && told.contains("firing") && told.contains("storage_failed/unsafe/"), "{told}");
    let (_, metrics) = agent.get("/metrics").expect("metrics");
    assert!(metrics.contains("weir_storage_failed 1"), "{metrics}");
    assert!(!server.taken().contains("a=2"), "no reading leaves");
    agent.kill();
    assert_eq!(ops.requests(), 1, "once");
}

#[test]
fn a_dead_disk_is_told_by_the_delivery_that_goes_on_without_it() {
    let directory = folder();
    let server = Scripted::start(TAKES);
    append(directory.path(), "m a=1 1700000001000000000\n");
    Agent::write_config(directory.path(), &(config(server.port, "", "5s") + "[storage]\non_storage_failure = \"continue\"\n"));
    // A forbidden write is told by a signal, too, and that must not end the agent.
    let agent = Agent::spawn_under(directory.path(), &["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    eventually("the first reading", || server.taken().contains("a=1").then_some(()));
    let limited = std::process::Command::new("prlimit").args(["--pid", &agent.pid().to_string(), "--fsize=0:"]).status();
    assert!(limited.expect("prlimit runs").success());
    append(directory.path(), "m a=2 1700000002000000000\n");
    eventually("reading and alert arrive from memory", || {
        let taken = server.taken();
        (taken.contains("a=2") && taken.contains("weir_alert,alert=storage_failed,severity=warning state=\"firing\",n=1i,")).then_some(())
    });
    let (_, metrics) = agent.get("/metrics").expect("metrics");
    assert!(metrics.contains("weir_storage_failed 1"), "{metrics}");
    agent.kill();
}
