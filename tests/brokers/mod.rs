//! Outages of real destinations: collection and alerts go on, results wait, and everything arrives in order afterwards.

#[cfg(feature = "full")]
mod kafka;
mod mqtt;

use std::{fs, io::Write, path::Path};

use crate::support::{
    agent::Agent,
    eventually,
    servers::{self, http_get, influx_query, kafka_read},
};

fn feed(path: &Path, from: u64, to: u64) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("the followed file");
    for n in from..to {
        // Hot for a while in the middle of each hundred.
        let temperature = if n % 100 >= 50 { 90 } else { 20 };
        writeln!(file, "seq,device=d n={n}i,temperature={temperature} {}", 1_700_000_000_000_000_000 + n * 1_000_000_000)
            .expect("appended");
    }
}

fn config(outputs: &str) -> String {
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"100ms\"\n[[inputs.tail]]\nfiles = [\"in.lp\"]\nfrom_beginning = true\npath_tag = \"\"\ndata_format = \"influx\"\n[[alerts]]\nname = \"hot\"\nwhen = \"temperature > 80\"\nby = [\"device\"]\nactions = [\"note\"]\n[[actions.exec]]\nalias = \"note\"\ncommand = [\"sh\", \"-c\", \"echo $WEIR_ALERT $WEIR_STATE >> alerts.txt\"]\n{outputs}[limits]\nresults_waiting_bytes_max = \"64KiB\"\n[storage]\ncommit_interval = \"50ms\"\n"
    )
}

fn ledger_balances(agent: &Agent) {
    let status = agent.status();
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "the ledger balances: {status}");
}

#[test]
fn influxdb_gets_everything_after_an_outage_with_a_kill_in_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let mut influx = servers::influxdb(path);
    let outputs = format!("[[outputs.influxdb]]\nurls = [\"http://127.0.0.1:{}\"]\ndatabase = \"outage\"\ntimeout = \"1s\"\n", influx.port);
    feed(&path.join("in.lp"), 0, 100);
    let agent = Agent::start(path, &config(&outputs));
    let count =
        |port| influx_query(port, "outage", "select count(n) from seq").and_then(|rows| rows.first()?.get(1)?.as_u64()).unwrap_or(0);
    eventually("the first readings are stored", || (count(influx.port) == 100).then_some(()));
    influx.kill();
    feed(&path.join("in.lp"), 100, 3000);
    eventually("alerts go on while the store is down", || {
        (fs::read_to_string(path.join("alerts.txt")).unwrap_or_default().lines().count() >= 40).then_some(())
    });
    // In pieces, so that they wait in several chunks, of which the output's task holds only the first.
    for from in (3000..6000).step_by(300) {
        feed(&path.join("in.lp"), from, from + 300);
        eventually("recorded", || (agent.status()["inputs"][0]["recorded"].as_u64()? == from + 300).then_some(()));
    }
    eventually("results wait on disk", || (agent.status()["outputs"][0]["waiting_disk"].as_u64()? > 0).then_some(()));
    ledger_balances(&agent);
    agent.kill();
    let agent = Agent::spawn_written(path);
    agent.wait_ready();
    feed(&path.join("in.lp"), 6000, 6500);
    influx.restart();
    eventually("everything is stored", || (count(influx.port) == 6500).then_some(()));
    let rows = influx_query(influx.port, "outage", "select n from seq").unwrap_or_default();
    let numbers: Vec<u64> = rows.iter().filter_map(|r| r[1].as_u64()).collect();
    assert_eq!(numbers, (0..6500).collect::<Vec<_>>());
    let alerts = influx_query(influx.port, "outage", "select n from weir_alert").unwrap_or_default();
    assert_eq!(alerts.len(), 129, "each transition once: 65 firing, 64 resolved");
    ledger_balances(&agent);
    assert!(agent.terminate().success());
}

#[test]
fn a_store_of_influxdb_2_writes_gets_every_point() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let questdb = servers::questdb(path);
    let outputs = format!(
        "[[outputs.influxdb_v2]]\nurls = [\"http://127.0.0.1:{}\"]\norganization = \"o\"\nbucket = \"b\"\ntoken = \"t\"\n",
        questdb.port
    );
    feed(&path.join("in.lp"), 0, 500);
    let agent = Agent::start(path, &config(&outputs));
    eventually("every point is stored", || {
        let (_, body) = http_get(questdb.port, "/exec?query=select%20count(),sum(n)%20from%20seq")?;
        body.contains(&format!("[[500,{}]]", 499 * 500 / 2)).then_some(())
    });
    ledger_balances(&agent);
    assert!(agent.terminate().success());
}

#[cfg(feature = "full")]
#[test]
fn kafka_gets_everything_in_order_after_an_outage() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let mut kafka = servers::kafka(path);
    let outputs = format!(
        "[[outputs.kafka]]\nbrokers = [\"127.0.0.1:{}\"]\ntopic = \"readings\"\ndata_format = \"influx\"\nnamepass = [\"seq\"]\ntimeout = \"3s\"\n",
        kafka.port
    );
    feed(&path.join("in.lp"), 0, 200);
    let agent = Agent::start(path, &config(&outputs));
    let numbers = |port| -> Vec<u64> {
        let lines = kafka_read(port, "readings");
        lines.iter().filter_map(|l| l.split("n=").nth(1)?.split('i').next()?.parse().ok()).collect()
    };
    eventually("the first readings arrived", || (numbers(kafka.port).len() >= 200).then_some(()));
    kafka.kill();
    feed(&path.join("in.lp"), 200, 1500);
    eventually("the outage was noticed", || agent.log().contains("write failed").then_some(()));
    kafka.restart();
    eventually("everything arrived", || (numbers(kafka.port).len() >= 1500).then_some(()));
    let mut seen = numbers(kafka.port);
    // Within one run the idempotent producer delivers once; what was in doubt at the outage may have been sent again.
    seen.dedup();
    assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), 1500, "none missing");
    ledger_balances(&agent);
    assert!(agent.terminate().success());
}
