//! The MQTT input against a real broker: what is acknowledged when, what is repeated, what a bad message costs.
#![cfg(all(feature = "input-mqtt_consumer", feature = "codec-value"))]
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use support::{Mosquitto, PATIENCE, build, eventually, text, texts};
use tokio::task::JoinHandle;
use weir_plugin_api::{
    Position, Resume,
    collector::Shape,
    options::Item,
    plugin::{AnyInput, InputHealth, PluginError, Stop, StreamingInput},
    testing::{self, Receiver},
};
use weir_plugins::inputs::mqtt_consumer;

mod support;

type Options<'a> = Vec<(&'a str, Item)>;

/// A consumer at work and the core's end of its ring.
struct Running {
    receiver: Receiver,
    stop: Stop,
    drained: Stop,
    health: Arc<InputHealth>,
    lines: Vec<String>,
    task: JoinHandle<(Result<(), PluginError>, Box<dyn StreamingInput>)>,
}

impl Running {
    fn start(options: Options<'_>, resume: Resume) -> Self {
        let built = build(&mqtt_consumer::ENTRY, options).unwrap();
        let AnyInput::Streaming(input) = built.input else { panic!("a streaming input") };
        Self::go(input, resume)
    }

    fn go(mut input: Box<dyn StreamingInput>, resume: Resume) -> Self {
        let (collector, receiver, _) = testing::collector_with(Shape::default(), 16);
        let mut context = testing::context(collector, resume);
        let (stop, drained, health) = (context.stop.clone(), context.drained.clone(), Arc::clone(&context.health));
        let task = tokio::spawn(async move { (input.run(&mut context).await, input) });
        Self { receiver, stop, drained, health, lines: Vec::new(), task }
    }

    async fn lines(&mut self, count: usize) -> &[String] {
        let (receiver, lines) = (&mut self.receiver, &mut self.lines);
        eventually(&format!("{count} points"), || {
            lines.extend(receiver.take());
            lines.len() >= count
        })
        .await;
        &self.lines
    }

    async fn counted(&mut self, what: &str, mut condition: impl FnMut(&weir_plugin_api::InputCounts) -> bool) {
        let (receiver, lines) = (&mut self.receiver, &mut self.lines);
        eventually(what, || {
            lines.extend(receiver.take());
            condition(&receiver.counts)
        })
        .await;
    }

    /// Everything recorded so far folded together, as the journal would.
    fn resume(&self) -> Resume {
        self.resume_of(&self.receiver.positions)
    }

    fn resume_of(&self, positions: &[Position]) -> Resume {
        let mut resume = Resume::default();
        positions.iter().for_each(|p| resume.apply(p));
        resume
    }

    /// A crash: the task and its connection go without a word.
    async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    async fn stop(mut self) -> (Receiver, Vec<String>) {
        self.stop.request();
        let (receiver, lines, task) = (&mut self.receiver, &mut self.lines, &self.task);
        eventually("the input's end", || {
            lines.extend(receiver.take());
            task.is_finished()
        })
        .await;
        self.task.await.unwrap().0.unwrap();
        (self.receiver, self.lines)
    }
}

fn options<'a>(broker: &Mosquitto, extra: Options<'a>) -> Options<'a> {
    let mut options = vec![("servers", texts(&[&broker.url()])), ("data_format", text("value")), ("data_type", text("float"))];
    options.retain(|(k, _)| !extra.iter().any(|(e, _)| e == k));
    if !extra.iter().any(|(k, _)| *k == "topics") {
        options.push(("topics", texts(&["sensors/#"])));
    }
    options.extend(extra);
    options
}

fn persistent<'a>(broker: &Mosquitto, mut extra: Options<'a>) -> Options<'a> {
    extra.extend([("qos", Item::Int(1)), ("persistent_session", Item::Bool(true)), ("client_id", text("gateway"))]);
    options(broker, extra)
}

async fn subscribed(broker: &Mosquitto) {
    eventually("a subscription", || broker.log().contains("Sending SUBACK")).await;
}

#[tokio::test]
async fn messages_become_points_with_their_topic() {
    let broker = Mosquitto::start();
    let mut running = Running::start(options(&broker, vec![]), Resume::default());
    subscribed(&broker).await;
    broker.publish("sensors/a/temperature", b"21.5");
    broker.publish("sensors/b", b"7");
    assert_eq!(running.lines(2).await, ["test,topic=sensors/a/temperature value=21.5 ?", "test,topic=sensors/b value=7 ?"]);
    assert!(broker.log().contains("p5, c1"), "version 5, clean start");
    let (receiver, _) = running.stop().await;
    assert_eq!(receiver.partitions.iter().map(|p| &**p).collect::<Vec<_>>(), ["sensors/a/temperature", "sensors/b"]);
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_durable() {
    let broker = Mosquitto::start();
    let mut running = Running::start(persistent(&broker, vec![]), Resume::default());
    running.receiver.acknowledge = false;
    subscribed(&broker).await;
    broker.publish_lines("sensors/a", "1\n2\n3\n");
    running.lines(3).await;
    assert!(!broker.log().contains("Received PUBACK from gateway"));
    running.receiver.ring.acknowledge(u64::MAX);
    eventually("three acknowledgements", || broker.log().matches("Received PUBACK from gateway").count() == 3).await;
    running.receiver.acknowledge = true;
    running.stop().await;
}

#[tokio::test]
async fn what_was_recorded_but_not_acknowledged_is_recognised_after_a_crash() {
    for protocol in ["5", "3.1.1"] {
        let broker = Mosquitto::start();
        let extra = || vec![("protocol", text(protocol))];
        let mut running = Running::start(persistent(&broker, extra()), Resume::default());
        running.receiver.acknowledge = false;
        subscribed(&broker).await;
        broker.publish_lines("sensors/a", "1\n2\n3\n");
        running.lines(3).await;
        let resume = running.resume();
        running.crash().await;
        // Published while nobody is there, one with the value of an earlier one.
        broker.publish_lines("sensors/a", "4\n3\n");
        let mut running = Running::start(persistent(&broker, extra()), resume.clone());
        assert_eq!(running.lines(2).await, ["test,topic=sensors/a value=4 ?", "test,topic=sensors/a value=3 ?"], "{protocol}");
        running.counted("three duplicates", |c| c.duplicate == 3).await;
        let (mut receiver, lines) = running.stop().await;
        assert_eq!(receiver.take().len() + lines.len(), 2);
        assert_eq!(receiver.counts.read, 5);
        assert!(receiver.positions.iter().all(|p| matches!(p, Position::Messages { session, .. } if *session == resume.session)));
        eventually("all five are acknowledged", || broker.log().matches("Received PUBACK from gateway").count() == 5).await;
    }
}

/// mosquitto sends all of it at once, whatever window it was given.
#[tokio::test]
async fn a_backlog_the_broker_sends_all_at_once_is_taken_in_parts_and_each_message_once() {
    const BACKLOG: usize = 60_000;
    for protocol in ["5", "3.1.1"] {
        let broker = Mosquitto::with("autosave_on_changes false\nautosave_interval 0\n");
        let extra = || vec![("protocol", text(protocol))];
        let running = Running::start(persistent(&broker, extra()), Resume::default());
        subscribed(&broker).await;
        running.crash().await;
        broker.publish_lines("sensors/a", &"21.5\n".repeat(BACKLOG));
        let mut running = Running::start(persistent(&broker, extra()), Resume::default());
        running.lines(BACKLOG).await;
        broker.publish("sensors/a", b"-1");
        eventually("the last one", || {
            running.lines.extend(running.receiver.take());
            running.lines.last().is_some_and(|line| line.contains("value=-1 "))
        })
        .await;
        assert_eq!((running.lines.len(), running.receiver.counts.duplicate), (BACKLOG + 1, 0), "{protocol}");
        let connections = broker.log().matches(" as gateway (").count();
        assert!((3..10).contains(&connections), "{protocol}: {connections} connections");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_forgot_the_session_clears_the_table() {
    let mut broker = Mosquitto::start();
    let mut running = Running::start(persistent(&broker, vec![]), Resume::default());
    subscribed(&broker).await;
    broker.publish("sensors/a", b"1");
    running.lines(1).await;
    let before = running.resume();
    broker.kill();
    std::fs::remove_file(broker.directory.path().join("mosquitto.db")).ok();
    std::fs::remove_file(broker.directory.path().join("log")).unwrap();
    broker.start_again();
    running.counted("a subscription", |_| broker.log().contains("Sending SUBACK")).await;
    broker.publish("sensors/a", b"1");
    running.lines(2).await;
    let after = running.resume();
    assert!(after.session > before.session);
    assert_eq!(after.messages.len(), 1);
    assert_eq!(running.receiver.counts.duplicate, 0);
    running.stop().await;
}

/// Packet ids begin anew with a session, and a payload without a time may be the same again.
#[tokio::test]
async fn the_first_message_of_a_new_session_is_not_taken_for_that_of_the_old_one_after_a_crash() {
    for protocol in ["5", "3.1.1"] {
        let extra = || vec![("protocol", text(protocol))];
        let old = Mosquitto::start();
        let mut running = Running::start(persistent(&old, extra()), Resume::default());
        subscribed(&old).await;
        old.publish("sensors/a", b"1");
        running.lines(1).await;
        let mut positions = std::mem::take(&mut running.receiver.positions);
        let resume = running.resume_of(&positions);
        running.crash().await;
        // Another broker has never heard of us: nothing is subscribed to before that is durable.
        let new = Mosquitto::start();
        let mut running = Running::start(persistent(&new, extra()), resume);
        running.receiver.acknowledge = false;
        let told = |p: &Position| matches!(p, Position::Messages { ids, .. } if ids.is_empty());
        eventually("the new session is told", || {
            running.receiver.take();
            running.receiver.positions.iter().any(told)
        })
        .await;
        assert!(!new.log().contains("Received SUBSCRIBE"), "{protocol}");
        running.receiver.ring.acknowledge(u64::MAX);
        subscribed(&new).await;
        positions.append(&mut running.receiver.positions);
        new.publish("sensors/a", b"1");
        eventually("it is sent", || new.log().contains("Sending PUBLISH to gateway")).await;
        // A crash before it is recorded; its broker sends it again.
        let resume = running.resume_of(&positions);
        running.crash().await;
        let mut running = Running::start(persistent(&new, extra()), resume);
        assert_eq!(running.lines(1).await, ["test,topic=sensors/a value=1 ?"], "{protocol}");
        assert_eq!(running.receiver.counts.duplicate, 0, "{protocol}");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_broker_restart_loses_nothing_and_counts_nothing_twice() {
    let mut broker = Mosquitto::start();
    let mut running = Running::start(persistent(&broker, vec![]), Resume::default());
    running.receiver.acknowledge = false;
    subscribed(&broker).await;
    broker.publish_lines("sensors/a", &(0..200).map(|i| format!("{i}\n")).collect::<String>());
    running.lines(200).await;
    broker.stop();
    broker.start_again();
    running.receiver.acknowledge = true;
    running.receiver.ring.acknowledge(u64::MAX);
    broker.publish_lines("sensors/a", &(200..300).map(|i| format!("{i}\n")).collect::<String>());
    let mut values: Vec<f64> =
        running.lines(300).await.iter().map(|l| l.split("value=").nth(1).unwrap().trim_end_matches(" ?").parse().unwrap()).collect();
    values.sort_by(f64::total_cmp);
    assert_eq!(values, (0..300).map(f64::from).collect::<Vec<_>>());
    running.stop().await;
}

#[tokio::test]
async fn the_agent_starts_while_the_broker_is_down() {
    let mut broker = Mosquitto::start();
    broker.kill();
    let mut running = Running::start(options(&broker, vec![]), Resume::default());
    std::fs::remove_file(broker.directory.path().join("log")).unwrap();
    broker.start_again();
    subscribed(&broker).await;
    broker.publish("sensors/a", b"1");
    running.lines(1).await;
    running.stop().await;
}

#[tokio::test]
async fn the_next_server_is_tried_when_the_first_is_down() {
    let broker = Mosquitto::start();
    let nowhere = format!("tcp://127.0.0.1:{}", support::free_port());
    let servers = texts(&[&nowhere, &broker.url()]);
    let mut running = Running::start(options(&broker, vec![("servers", servers)]), Resume::default());
    subscribed(&broker).await;
    broker.publish("sensors/a", b"1");
    running.lines(1).await;
    running.stop().await;
}

#[tokio::test]
async fn unreadable_messages_cost_only_themselves() {
    let broker = Mosquitto::start();
    let mut running = Running::start(persistent(&broker, vec![]), Resume::default());
    subscribed(&broker).await;
    for payload in [&b"not a number"[..], b"\xff\xfe\x00", b"", b"NaN", b"-inf", b"1e999", b"21.5"] {
        broker.publish("sensors/a", payload);
    }
    running.lines(1).await;
    running.counted("the bad ones", |c| c.refused_parse + c.refused_nan >= 5).await;
    eventually("all are acknowledged", || broker.log().matches("Received PUBACK from gateway").count() == 7).await;
    assert_eq!(running.lines.len(), 1);
    let (_, lines) = running.stop().await;
    assert_eq!(lines, ["test,topic=sensors/a value=21.5 ?"]);
}

#[tokio::test]
async fn a_message_over_the_limit_is_stepped_over_on_an_old_broker() {
    let broker = Mosquitto::start();
    let extra = vec![("protocol", text("3.1.1")), ("max_packet_size", Item::Int(100_000))];
    let mut running = Running::start(persistent(&broker, extra), Resume::default());
    subscribed(&broker).await;
    broker.publish("sensors/big", &vec![b'1'; 10_000_000]);
    broker.publish("sensors/a", b"1");
    running.lines(1).await;
    running.counted("one refused for its size", |c| c.refused_size == 1).await;
    eventually("both are acknowledged", || broker.log().matches("Received PUBACK from gateway").count() == 2).await;
    assert_eq!(broker.log().matches(" as gateway (").count(), 1, "no reconnection");
    running.stop().await;
}

#[tokio::test]
async fn a_new_broker_keeps_messages_over_the_limit_back() {
    let broker = Mosquitto::start();
    let extra = vec![("protocol", text("5")), ("max_packet_size", Item::Int(100_000))];
    let mut running = Running::start(persistent(&broker, extra), Resume::default());
    subscribed(&broker).await;
    broker.publish("sensors/big", &vec![b'1'; 1_000_000]);
    broker.publish("sensors/a", b"1");
    assert_eq!(running.lines(1).await, ["test,topic=sensors/a value=1 ?"]);
    running.stop().await;
}

#[tokio::test]
async fn ten_megabytes_are_taken_if_allowed() {
    let broker = Mosquitto::start();
    let extra = vec![("max_packet_size", text("16MiB")), ("data_type", text("string"))];
    let mut running = Running::start(options(&broker, extra), Resume::default());
    subscribed(&broker).await;
    broker.publish("sensors/big", &vec![b'x'; 10_000_000]);
    assert!(running.lines(1).await[0].len() > 10_000_000);
    running.stop().await;
}

#[tokio::test]
async fn a_shared_subscription_parts_the_messages() {
    let broker = Mosquitto::start();
    let shared = || vec![("topics", texts(&["$share/weir/sensors/#"])), ("qos", Item::Int(1))];
    let mut one = Running::start(options(&broker, shared()), Resume::default());
    let mut two = Running::start(options(&broker, shared()), Resume::default());
    eventually("both subscriptions", || broker.log().matches("Sending SUBACK").count() == 2).await;
    broker.publish_lines("sensors/a", &"1\n".repeat(50));
    eventually("fifty in all", || {
        let (a, b) = (one.receiver.take(), two.receiver.take());
        one.lines.extend(a);
        two.lines.extend(b);
        one.lines.len() + two.lines.len() == 50
    })
    .await;
    assert!(!one.lines.is_empty() && !two.lines.is_empty());
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn tls_is_verified() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = support::certificate(directory.path());
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let broker = Mosquitto::in_directory(directory, &format!("certfile {cert}\nkeyfile {key}"));
    let url = format!("ssl://127.0.0.1:{}", broker.port);
    let with = |extra: Options<'static>| {
        let mut all = vec![("servers", texts(&[&url]))];
        all.extend(extra);
        options(&broker, all)
    };
    // The system's authorities do not know it; a name it does not carry is refused as well.
    let strangers = Running::start(with(vec![]), Resume::default());
    let misnamed = Running::start(with(vec![("tls_ca", text(&cert)), ("tls_server_name", text("elsewhere.example"))]), Resume::default());
    eventually("both are turned away", || broker.log().to_lowercase().matches("alert").count() >= 2).await;
    assert!(!broker.log().contains("New client connected"));
    let named = Running::start(with(vec![("tls_ca", text(&cert)), ("tls_server_name", text("broker.example"))]), Resume::default());
    let trusting = Running::start(with(vec![("insecure_skip_verify", Item::Bool(true))]), Resume::default());
    let mut plain = Running::start(with(vec![("tls_ca", text(&cert))]), Resume::default());
    eventually("three subscriptions", || broker.log().matches("Sending SUBACK").count() == 3).await;
    broker.publish_with("sensors/a", b"1", &["--cafile", &cert]);
    plain.lines(1).await;
    for running in [strangers, misnamed, named, trusting, plain] {
        running.stop().await;
    }
}

#[tokio::test]
async fn user_and_password_open_the_door() {
    let directory = tempfile::tempdir().unwrap();
    let passwords = directory.path().join("passwords");
    let status =
        std::process::Command::new("mosquitto_passwd").args(["-c", "-b"]).arg(&passwords).args(["weir", "secret"]).status().unwrap();
    assert!(status.success());
    let broker = Mosquitto::in_directory(directory, "allow_anonymous false\npassword_file {dir}/passwords");
    let login = |password: &str| vec![("username", text("weir")), ("password", text(password))];
    let wrong = Running::start(options(&broker, login("wrong")), Resume::default());
    eventually("a refusal", || broker.log().contains("not authorised")).await;
    let mut right = Running::start(options(&broker, login("secret")), Resume::default());
    subscribed(&broker).await;
    broker.publish_with("sensors/a", b"1", &["-u", "weir", "-P", "secret"]);
    right.lines(1).await;
    right.stop().await;
    wrong.stop().await;
}

#[tokio::test]
async fn a_password_that_is_put_right_at_the_broker_opens_the_door_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let passwords = directory.path().join("passwords");
    let set = |password: &str, more: &[&str]| {
        let mut command = std::process::Command::new("mosquitto_passwd");
        assert!(command.args(more).arg("-b").arg(&passwords).args(["weir", password]).status().unwrap().success());
    };
    set("another", &["-c"]);
    let broker = Mosquitto::in_directory(directory, "allow_anonymous false\npassword_file {dir}/passwords");
    let login = vec![("username", text("weir")), ("password", text("secret"))];
    let mut running = Running::start(options(&broker, login), Resume::default());
    eventually("it is refused again and again", || broker.log().matches("not authorised").count() >= 2).await;
    set("secret", &[]);
    broker.signal("HUP");
    subscribed(&broker).await;
    broker.publish_with("sensors/a", b"1", &["-u", "weir", "-P", "secret"]);
    running.lines(1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_broker_that_hangs_is_left_for_another_and_returned_to() {
    let (first, mut second) = (Mosquitto::start(), Mosquitto::start());
    let times = || vec![("keepalive", text("1s")), ("ping_timeout", text("500ms")), ("connection_timeout", text("500ms"))];
    let servers = texts(&[&first.url(), &second.url()]);
    let mut running = Running::start(options(&first, [times(), vec![("servers", servers)]].concat()), Resume::default());
    subscribed(&first).await;
    // It keeps the connection and says nothing any more; nor does it to those who connect.
    first.signal("STOP");
    subscribed(&second).await;
    second.publish("sensors/a", b"1");
    running.lines(1).await;
    second.kill();
    first.signal("CONT");
    let log = || first.log().matches("Sending SUBACK").count();
    eventually("it is back", || log() == 2).await;
    first.publish("sensors/a", b"2");
    running.lines(2).await;
    running.stop().await;
}

#[tokio::test]
async fn strange_topics_are_tags_like_others() {
    let broker = Mosquitto::start();
    let mut running = Running::start(options(&broker, vec![("topics", texts(&["#"]))]), Resume::default());
    subscribed(&broker).await;
    let long = "x".repeat(60_000);
    for topic in ["/", "a b,c=d//é", r#""quoted"\"#, &long] {
        broker.publish(topic, b"1");
    }
    let lines = running.lines(4).await.to_vec();
    assert!(lines[1].contains(r"topic=a\ b\,c\=d//é "), "{}", lines[1]);
    assert!(lines.iter().any(|l| l.contains(&long)));
    running.stop().await;
}

#[tokio::test]
async fn a_stopped_input_leaves_the_rest_to_the_broker_and_still_acknowledges() {
    let broker = Mosquitto::start();
    let mut running = Running::start(persistent(&broker, vec![]), Resume::default());
    running.receiver.acknowledge = false;
    subscribed(&broker).await;
    broker.publish("sensors/a", b"1");
    running.lines(1).await;
    running.stop.request();
    broker.publish("sensors/a", b"2");
    assert!(!running.task.is_finished(), "an acknowledgement is still to come");
    running.receiver.ring.acknowledge(u64::MAX);
    eventually("the acknowledgement", || broker.log().contains("Received PUBACK from gateway")).await;
    running.drained.request();
    let (result, input) = running.task.await.unwrap();
    result.unwrap();
    eventually("goodbye", || broker.log().contains("Received DISCONNECT from gateway")).await;
    let mut again = Running::go(input, Resume::default());
    assert_eq!(again.lines(1).await, ["test,topic=sensors/a value=2 ?"]);
    again.stop().await;
}

#[tokio::test]
async fn a_full_ring_slows_the_broker_down_and_loses_nothing() {
    let broker = Mosquitto::start();
    let mut running = Running::start(persistent(&broker, vec![("max_undelivered_messages", Item::Int(40))]), Resume::default());
    running.receiver.acknowledge = false;
    subscribed(&broker).await;
    broker.publish_lines("sensors/a", &"1\n".repeat(300));
    running.lines(40).await;
    assert_eq!(running.receiver.take().len(), 0, "the window is full");
    running.receiver.acknowledge = true;
    running.receiver.ring.acknowledge(u64::MAX / 2);
    running.lines(300).await;
    let (receiver, lines) = running.stop().await;
    assert_eq!((receiver.counts.read, lines.len()), (300, 300));
}

#[tokio::test]
async fn an_old_broker_is_spoken_to_in_its_version() {
    // A listener that knows 3.1.1 only: it answers a version 5 CONNECT with code 1, then takes the older one.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let versions = std::thread::spawn(move || {
        let mut versions = Vec::new();
        for answer in
            [&[0x20, 2, 0, 1][..], &[0x20, 2, 0, 0, 0x90, 3, 0, 1, 0, 0x30, 10, 0, 7, b's', b'e', b'n', b's', b'o', b'r', b's', b'8']]
        {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 9];
            std::io::Read::read_exact(&mut stream, &mut head).unwrap();
            versions.push(head[8]);
            stream.write_all(answer).unwrap();
            if versions.len() == 2 {
                // Held open until the other side has said goodbye.
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }
        }
        versions
    });
    let options = vec![
        ("servers", texts(&[&format!("tcp://127.0.0.1:{port}")])),
        ("topics", texts(&["sensors"])),
        ("data_format", text("value")),
        ("data_type", text("float")),
    ];
    let mut running = Running::start(options, Resume::default());
    assert_eq!(running.lines(1).await, ["test,topic=sensors value=8 ?"]);
    running.stop().await;
    assert_eq!(versions.join().unwrap(), [5, 4]);
}

#[tokio::test]
async fn a_broker_that_says_nonsense_is_left_and_tried_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = vec![
        ("servers", texts(&[&format!("tcp://127.0.0.1:{port}")])),
        ("topics", texts(&["sensors"])),
        ("data_format", text("value")),
        ("protocol", text("5")),
    ];
    let running = Running::start(options, Resume::default());
    for nonsense in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\x20\xff\xff\xff\xff\xff", b"\x30\x00", b"\x00"] {
        use tokio::io::AsyncWriteExt;
        let (mut stream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        stream.write_all(nonsense).await.unwrap();
    }
    running.stop().await;
}

#[test]
fn wrong_options_are_all_reported() {
    let errors = build(
        &mqtt_consumer::ENTRY,
        vec![
            ("servers", texts(&["http://x", "ws://y"])),
            ("topics", texts(&["a/#/b"])),
            ("qos", Item::Int(3)),
            ("persistent_session", Item::Bool(true)),
            ("data_format", text("value")),
            ("client_trace", Item::Bool(true)),
        ],
    )
    .err()
    .unwrap();
    for expected in
        ["element 1: unknown scheme", "websockets", "`#` stands alone", "`qos` must be 0, 1 or 2", "needs `client_id`", "client_trace"]
    {
        assert!(errors.iter().any(|e| e.contains(expected)), "{expected}: {errors:?}");
    }
}

/// Two agents with one configuration take the session from each other. Each keeps what it has acknowledged, and neither comes back at once.
#[tokio::test]
async fn two_consumers_of_one_client_id_give_each_other_time_and_lose_nothing() {
    for protocol in ["5", "3.1.1"] {
        let broker = Mosquitto::start();
        let start = || Running::start(persistent(&broker, vec![("protocol", text(protocol))]), Resume::default());
        let first = start();
        subscribed(&broker).await;
        let mut both = [first, start()];
        let connections = || broker.log().matches(" as gateway (").count();
        let (began, mut sent) = (Instant::now(), 0);
        while connections() < 16 {
            assert!(began.elapsed() < Duration::from_secs(90), "{} connections", connections());
            broker.publish("sensors/a", format!("{sent}").as_bytes());
            sent += 1;
            for running in &mut both {
                running.lines.extend(running.receiver.take());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let elapsed = began.elapsed();
        assert!(elapsed >= Duration::from_millis(1500), "MQTT {protocol}: 16 connections in {elapsed:?}");
        assert!(both.iter().all(|running| running.health.contests() >= 3), "counted");
        let [first, second] = both;
        let (_, lines) = first.stop().await;
        let mut seen: BTreeSet<String> = lines.into_iter().collect();
        let (mut second, began) = (second, Instant::now());
        while seen.len() < sent {
            let missing =
                || (0..sent).map(|n| format!("test,topic=sensors/a value={n} ?")).filter(|line| !seen.contains(line)).collect::<Vec<_>>();
            assert!(began.elapsed() < Duration::from_secs(60), "MQTT {protocol}, of {sent}: {:?} in {:?}", missing(), seen.first());
            seen.extend(second.lines.drain(..));
            seen.extend(second.receiver.take());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        second.stop().await;
    }
}
