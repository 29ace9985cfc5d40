//! `weir store` on directories as they come from a card: copies of what a real agent left, whole and damaged.

mod damage;
mod format;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::LazyLock,
};

use crate::support::{
    agent::{Agent, binary, run},
    eventually, free_port,
};

/// Readings of each life of the agent.
const READINGS: u64 = 1200;

/// What an agent left that lived three times: twice it was stopped, then it was killed. Nobody took its results but a file.
struct Left {
    state: Contents,
    /// `in.lp` and `out.lp`.
    files: Contents,
    /// What `store ls` said while the agent was running.
    listed_running: Output,
}

/// Made once, copied by each test.
static LEFT: LazyLock<Left> = LazyLock::new(live);

/// A directory with copies of it.
struct Home {
    directory: tempfile::TempDir,
}

/// Files of a directory with their content.
type Contents = BTreeMap<String, Vec<u8>>;

fn contents(directory: &Path) -> Contents {
    let entries = fs::read_dir(directory).expect("it can be listed").map(|e| e.expect("an entry").path());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    entries.filter(|path| path.is_file()).map(|path| (name(&path), fs::read(&path).expect("it can be read"))).collect()
}

fn config(port: u16) -> String {
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\nshutdown_timeout = \"300ms\"\n[[inputs.tail]]\nfiles = [\"in.lp\"]\nfrom_beginning = true\npath_tag = \"\"\ndata_format = \"influx\"\n[[windows]]\nname = \"second\"\nevery = \"1s\"\nby = [\"device\"]\naggregates = [\"count\", \"sum\"]\n[[alerts]]\nname = \"high\"\nwhen = \"n > 400\"\nby = [\"device\"]\n[[outputs.http]]\nurl = \"http://127.0.0.1:{port}/write\"\ndata_format = \"influx\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\n[storage]\ncommit_interval = \"10ms\"\n"
    )
}

fn lines(from: u64, to: u64) -> String {
    (from..to).map(|n| format!("seq,device=d{} n={n}i,v={}.5 {}\n", n % 3, n % 7, 1_700_000_000_000_000_000 + n * 100_000_000)).collect()
}

fn live() -> Left {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let config = config(free_port());
    let mut listed_running = None;
    for life in 0..3 {
        let agent = Agent::start(path, &config);
        let mut input = fs::OpenOptions::new().create(true).append(true).open(path.join("in.lp")).expect("the followed file");
        for part in 0..4 {
            let from = life * READINGS + part * READINGS / 4;
            input.write_all(lines(from, from + READINGS / 4).as_bytes()).expect("appended");
            // Each part in a block of its own.
            eventually("the part is in the journal", || is_journaled(path, "state", from + READINGS / 4 - 1).then_some(()));
        }
        if life < 2 {
            agent.terminate();
        } else {
            eventually("results have arrived", || fs::read_to_string(path.join("out.lp")).ok().filter(|t| t.lines().count() > 1000));
            listed_running = Some(store(path, &["ls", "state"]));
            agent.kill();
        }
    }
    let mut files = contents(path);
    files.retain(|name, _| name.ends_with(".lp"));
    Left { state: contents(&path.join("state")), files, listed_running: listed_running.expect("it ran") }
}

/// Whether a reading is in a block of the journal.
fn is_journaled(directory: &Path, state: &str, reading: u64) -> bool {
    let line = lines(reading, reading + 1);
    let time = line.trim_end().rsplit(' ').next().expect("a time");
    out(&store(directory, &["export", state, "--what", "journal", "--from", time])).starts_with(&line)
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        LEFT.files.iter().for_each(|(name, content)| fs::write(directory.path().join(name), content).expect("copied"));
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A copy of the state, as from a card: without the lock.
    fn copy(&self, name: &str) -> PathBuf {
        let to = self.path().join(name);
        fs::create_dir(&to).expect("made");
        for (name, content) in LEFT.state.iter().filter(|(name, _)| *name != "lock") {
            fs::write(to.join(name), content).expect("copied");
        }
        to
    }
}

fn recorded(agent: &Agent) -> u64 {
    agent.status()["inputs"].as_array().map_or(0, |inputs| inputs.iter().filter_map(|i| i["recorded"].as_u64()).sum())
}

/// `weir store …` in `directory`.
fn store(directory: &Path, arguments: &[&str]) -> Output {
    run(directory, &[&["store"], arguments].concat(), b"")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// Runs `store` on a copy; what it said, after a look whether anything has changed.
fn looked(home: &Home, copy: &str, arguments: &[&str]) -> Output {
    let before = contents(&home.path().join(copy));
    let output = store(home.path(), arguments);
    assert_eq!(contents(&home.path().join(copy)), before, "{arguments:?} changed nothing");
    output
}

#[test]
fn a_copied_store_is_listed_checked_printed_and_exported_without_a_trace() {
    let home = Home::new();
    assert!(LEFT.listed_running.status.success());
    assert!(err(&LEFT.listed_running).contains("an agent is running on state"), "{}", err(&LEFT.listed_running));
    home.copy("copy");

    let verified = looked(&home, "copy", &["verify", "copy"]);
    assert!(verified.status.success(), "{}", out(&verified));
    assert!(out(&verified).ends_with("checked, nothing is damaged\n"), "{}", out(&verified));
    let listed = looked(&home, "copy", &["ls", "copy", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed["checkpoint"], 2);
    let files = listed["files"].as_array().expect("files");
    let of = |kind: &str, state: &str| files.iter().filter(|f| f["kind"] == kind && f["state"] == state).count();
    assert_eq!((of("checkpoint", "needed"), of("checkpoint", "kept"), of("lock", "free")), (1, 1, 0));
    assert!(of("journal", "needed") > 0 && of("outbox", "needed") > 0, "{listed}");

    let printed = out(&looked(&home, "copy", &["cat", "copy"]));
    for expected in
        ["checkpoint 2 records up to", "input tail recorded 2400", "output http routed", "window second 3 groups", "alert high 3 groups"]
    {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    let batches = |text: &str| text.lines().filter(|l| l.contains(" batch tail, ")).count();
    assert!(batches(&printed) >= 4 && printed.contains("position in.lp at "), "{printed}");
    assert!(batches(&out(&looked(&home, "copy", &["cat", "copy", "--all"]))) >= 8);

    let readings = out(&looked(&home, "copy", &["export", "copy", "--what", "journal"]));
    // Those of the first life are free, and partly written over by now.
    let (kept, free) = (lines(READINGS, 3 * READINGS), lines(0, READINGS));
    let before = readings.strip_suffix(&kept).expect("every reading that a checkpoint may still need, in order");
    assert!(before.lines().all(|l| free.contains(l)), "{before}");
    let waiting = out(&looked(&home, "copy", &["export", "copy", "--what", "outbox"]));
    let written = fs::read_to_string(home.path().join("out.lp")).expect("results");
    let written = sorted(&written);
    assert!(waiting.lines().count() > 600 && waiting.lines().all(|l| written.binary_search(&l).is_ok()), "{waiting}");
    let alerts = out(&looked(&home, "copy", &["export", "copy", "--what", "outbox", "--lane", "alerts"]));
    assert!(!alerts.is_empty() && alerts.lines().all(|l| l.starts_with("weir_alert,")), "{alerts}");
}

#[test]
fn exports_are_cut_in_time_and_read_back_in_every_format() {
    let home = Home::new();
    home.copy("copy");
    let window = ["--from", "2023-11-14T22:18:20Z", "--to", "1700000302000000000"];
    let some = out(&store(home.path(), &[&["export", "copy", "--what", "journal"], &window[..]].concat()));
    assert_eq!(some, lines(3000, 3020));
    let json = out(&store(home.path(), &[&["export", "copy", "--what", "journal", "--format", "json"], &window[..]].concat()));
    let first: serde_json::Value = serde_json::from_str(json.lines().next().expect("a line")).expect("JSON");
    assert_eq!(json.lines().count(), 20);
    assert_eq!((&first["timestamp"], &first["fields"]["n"]), (&1_700_000_300_000_000_000u64.into(), &3000.into()));

    let everything = sorted_lines(&out(&store(home.path(), &["export", "copy"])));
    let exported = store(home.path(), &["export", "copy", "--format", "csv", "--output", "all.csv"]);
    assert!(exported.status.success() && exported.stdout.is_empty(), "{}", err(&exported));
    let back = "[agent]\nomit_hostname = true\n[[inputs.file]]\nfiles = [\"all.csv\"]\nfile_tag = \"\"\ndata_format = \"csv\"\ncsv_header_row_count = 1\ncsv_measurement_column = \"measurement\"\ncsv_timestamp_column = \"time\"\ncsv_timestamp_format = \"unix_ns\"\ncsv_tag_columns = [\"alert\", \"device\", \"severity\"]\n[[outputs.file]]\nfiles = [\"back.lp\"]\ninflux_sort_fields = true\n";
    fs::write(home.path().join("back.toml"), back).expect("written");
    let ran = run(home.path(), &["run", "--once", "--config", "back.toml", "--directory", "back"], b"");
    assert!(ran.status.success(), "{}", err(&ran));
    let normal = |line: &String| {
        let (head, time) = line.rsplit_once(' ').expect("a time");
        let (series, fields) = head.split_once(' ').expect("fields");
        let mut fields: Vec<&str> = fields.split(',').collect();
        fields.sort_unstable();
        format!("{series} {} {time}", fields.join(","))
    };
    let mut expected: Vec<String> = everything.iter().map(normal).collect();
    expected.sort_unstable();
    let back = sorted_lines(&fs::read_to_string(home.path().join("back.lp")).expect("read back"));
    let mut back: Vec<String> = back.iter().map(normal).collect();
    back.sort_unstable();
    assert_eq!(back, expected);
}

fn sorted_lines(text: &str) -> Vec<String> {
    sorted(text).into_iter().map(str::to_owned).collect()
}

#[test]
fn a_store_is_no_place_to_write_to_and_a_reader_that_leaves_is_no_failure() {
    let home = Home::new();
    home.copy("copy");
    for place in ["copy/export.lp", "copy/id", "./copy/../copy/export.lp"] {
        let refused = looked(&home, "copy", &["export", "copy", "--output", place]);
        assert_eq!(refused.status.code(), Some(2), "{place}");
        assert!(err(&refused).contains("which is only read"), "{}", err(&refused));
    }
    for wrong in
        [&["verify", "nowhere"][..], &["ls", "."], &["export", "copy", "--from", "yesterday"], &["export", "copy", "--format", "xml"]]
    {
        let refused = store(home.path(), wrong);
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}: {}", err(&refused));
        assert!(refused.stdout.is_empty() && !refused.stderr.is_empty());
    }
    let mut child = binary()
        .args(["store", "export", "copy", "--format", "json"])
        .current_dir(home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut first = String::new();
    BufReader::with_capacity(64, child.stdout.take().expect("piped")).read_line(&mut first).expect("a line");
    let ended = child.wait_with_output().expect("it ends");
    assert!(first.starts_with('{') && ended.status.success() && ended.stderr.is_empty(), "{first}{}", err(&ended));
}

#[test]
fn somebody_elses_store_that_nobody_may_write_is_read_all_the_same() {
    use std::os::unix::{fs::PermissionsExt, process::CommandExt};
    let home = Home::new();
    let copy = home.copy("copy");
    let allow = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
    let files: Vec<PathBuf> = contents(&copy).into_keys().map(|name| copy.join(name)).collect();
    allow(home.path(), 0o755);
    allow(&copy, 0o555);
    // The one that was built may lie where only its owner may look.
    let program = home.path().join("weir");
    // By a process of its own: what another test starts while this one has it open to write would keep it so for a moment, and busy.
    assert!(Command::new("cp").arg(binary().get_program()).arg(&program).status().expect("cp runs").success());
    let verify = |mode| {
        files.iter().for_each(|file| allow(file, mode));
        let mut command = Command::new(&program);
        command.args(["store", "verify", "copy"]).current_dir(home.path());
        // To root nothing is forbidden.
        if fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
            command.uid(65534).gid(65534);
        }
        command.output().expect("it runs")
    };
    let read = verify(0o444);
    assert!(read.status.success(), "{}{}", out(&read), err(&read));
    let refused = verify(0o000);
    assert_eq!(refused.status.code(), Some(2), "{}", out(&refused));
    assert!(err(&refused).to_lowercase().contains("permission denied"), "{}", err(&refused));
    allow(&copy, 0o755);
}
