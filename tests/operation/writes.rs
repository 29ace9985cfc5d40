//! The write budget under load: it holds, nothing is lost by it, an alert passes it, and status says all of this.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::folder;
use crate::support::{
    agent::{Agent, run},
    eventually, free_port,
    mqtt::Publisher,
    servers,
};

/// Syncs a minute.
const BUDGET: u64 = 6;
/// A little less than the minute in which the budget holds: a sync is begun and over, and counted, somewhat later.
const MINUTE: Duration = Duration::from_secs(55);

/// Posts a line; how long the answer took.
pub fn post(port: u16, line: &str) -> Duration {
    let start = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the listener listens");
    stream.set_read_timeout(Some(Duration::from_secs(90))).expect("an option");
    let head = format!("POST /api/v2/write HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", line.len());
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(line.as_bytes())).expect("the agent reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the agent answers");
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    start.elapsed()
}

/// What status says between two moments.
struct Sample {
    before: Instant,
    after: Instant,
    fsyncs: u64,
    over: u64,
    bound: bool,
}

fn sample(agent: &Agent) -> Sample {
    let before = Instant::now();
    let status = agent.status();
    let of = |name: &str| status["store"][name].as_u64().expect("a number");
    Sample { before, after: Instant::now(), fsyncs: of("fsyncs"), over: of("over_budget"), bound: of("bound_by_budget") > 0 }
}

#[test]
fn a_write_budget_holds_under_load_delays_acknowledgements_loses_nothing_and_lets_an_alert_pass() {
    let directory = folder();
    let path = directory.path();
    let broker = servers::mosquitto(path, "max_inflight_messages 0");
    let port = free_port();
    let config = format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.mqtt_consumer]]\nservers = [\"tcp://127.0.0.1:{}\"]\ntopics = [\"s/#\"]\ntopic_tag = \"\"\nqos = 1\npersistent_session = true\nclient_id = \"weir-budget\"\ndata_format = \"influx\"\n[[inputs.influxdb_v2_listener]]\nservice_address = \"127.0.0.1:{port}\"\nwrite_timeout = \"90s\"\n[[alerts]]\nname = \"hot\"\nwhen = \"temperature > 80\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\n[storage]\nfsyncs_per_minute_max = {BUDGET}\nendurance_bytes = \"10TB\"\n",
        broker.port
    );
    let agent = Agent::start(path, &config);
    eventually("the agent has subscribed", || agent.log().contains("connected input=").then_some(()));
    let mut publisher = Publisher::connect(broker.port, "budget-publisher");
    let (mut samples, mut sent) = (vec![sample(&agent)], 0u64);
    let mut patient: Option<std::thread::JoinHandle<Duration>> = None;
    let mut alerted = None;
    // A reading every 50 ms, until the minute is over and one that came while the budget was spent has its answer.
    while alerted.is_none() || !patient.as_ref().is_some_and(std::thread::JoinHandle::is_finished) {
        publisher.publish("s/a", format!("seq n={sent}i {}", 1_700_000_000_000_000_000 + sent * 50_000_000).as_bytes());
        sent += 1;
        samples.push(sample(&agent));
        let bound = samples.last().is_some_and(|s| s.bound);
        match samples[0].after.elapsed().as_secs() {
            5.. if alerted.is_none() && bound => alerted = Some(post(port, "boiler temperature=99 1700000000000000000\n")),
            8.. if patient.is_none() && bound => {
                patient = Some(std::thread::spawn(move || post(port, "other v=1 1700000001000000000\n")));
            }
            150.. => panic!("the budget never gives way: {}\n{}", agent.status(), agent.log()),
            _ => std::thread::park_timeout(Duration::from_millis(50)),
        }
    }
    publisher.drain();
    for (at, from) in samples.iter().enumerate() {
        // Both were said within this time for certain, however slow the answers were.
        let Some(to) = samples[at..].iter().take_while(|s| s.after - from.before <= MINUTE).last() else { continue };
        let (syncs, allowed) = (to.fsyncs - from.fsyncs, BUDGET + to.over - from.over);
        assert!(syncs <= allowed, "{syncs} syncs in {:?}, {allowed} allowed", to.after - from.before);
    }
    let waited = patient.and_then(|p| p.join().ok()).expect("an answer");
    assert!(waited > Duration::from_secs(10), "it had to wait for the budget: {waited:?}");
    let alerted = alerted.expect("an alert");
    assert!(alerted < waited / 2, "an alert does not wait: {alerted:?}, others {waited:?}");
    assert!(samples.last().is_some_and(|s| s.over >= 1), "and is counted: {}", agent.status());

    let shown = String::from_utf8(run(path, &["status", "--socket", "control.sock"], b"").stdout).expect("text");
    assert!(shown.contains("\nwritten ") && shown.contains("years left at the rate of the last "), "{shown}");
    let bound = eventually("it is bound again", || {
        publisher.publish("s/a", format!("seq n={sent}i {}", 1_700_000_000_000_000_000 + sent * 50_000_000).as_bytes());
        sent += 1;
        let shown = String::from_utf8(run(path, &["status", "--socket", "control.sock"], b"").stdout).expect("text");
        shown.contains("bound by the write budget").then_some(shown)
    });
    assert!(bound.contains("ledger balances"), "{bound}");
    let (_, metrics) = agent.get("/metrics").expect("an answer");
    for name in ["weir_writes_minute_fsyncs ", "weir_writes_day_bytes ", "weir_writes_life_days ", "weir_store_over_budget_total "] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    publisher.drain();
    eventually("everything was read", || {
        let read = agent.status()["inputs"][0]["recorded"].as_u64();
        (read == Some(sent)).then_some(())
    });
    assert!(agent.terminate().success());
    let text = fs::read_to_string(path.join("out.lp")).expect("results");
    let mut numbers: Vec<u64> = text.lines().filter_map(|l| l.strip_prefix("seq n=")?.split('i').next()?.parse().ok()).collect();
    numbers.sort_unstable();
    assert!(numbers == (0..sent).collect::<Vec<_>>(), "each reading once: {} of {sent}", numbers.len());
}

/// Bytes and syncs ever written are in the checkpoint; after a kill the journal's blocks stand for what came behind it.
#[test]
fn what_was_ever_written_is_known_after_a_stop_and_after_a_kill() {
    let directory = folder();
    let path = directory.path();
    let port = free_port();
    let config = format!(
        "[agent]\nomit_hostname = true\n[[inputs.influxdb_v2_listener]]\nservice_address = \"127.0.0.1:{port}\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\n[storage]\ncommit_interval = \"1ms\"\n"
    );
    let ever = |agent: &Agent| {
        let status = agent.status();
        let of = |name: &str| status["writes"][name].as_u64().expect("a number");
        (of("ever_bytes"), of("ever_fsyncs"))
    };
    let agent = Agent::start(path, &config);
    for n in 0..20 {
        post(port, &format!("m n={n} {}\n", 1_700_000_000_000_000_000u64 + n));
    }
    let first = ever(&agent);
    assert!(first.0 > 1 << 20 && first.1 > 20, "a journal file and twenty commits: {first:?}");
    assert!(agent.terminate().success());
    let agent = Agent::start(path, &config);
    let second = ever(&agent);
    assert!(second.0 >= first.0 && second.1 >= first.1, "{first:?} {second:?}");
    for n in 0..20 {
        post(port, &format!("m n={n} {}\n", 1_700_000_001_000_000_000u64 + n));
    }
    let third = ever(&agent);
    assert!(third.0 >= second.0 + 20 * 4096, "{second:?} {third:?}");
    agent.kill();
    let agent = Agent::start(path, &config);
    let fourth = ever(&agent);
    assert!(fourth.0 + 4 * 4096 >= third.0 && fourth.1 + 8 >= third.1, "{third:?} {fourth:?}");
}
