//! What following a file promises: every line once, through rotation, truncation, stops and restarts.

#![allow(clippy::unwrap_used)]

use std::{fs::OpenOptions, io::Write, sync::Arc};

use weir_plugin_api::{
    options::{Diagnostics, Item, Node, Place, Table},
    testing::{self, Receiver},
};

use super::*;

struct Rig {
    directory: tempfile::TempDir,
    options: Vec<(&'static str, Item)>,
    resume: Resume,
}

fn text(text: &str) -> Item {
    Item::Text(text.into())
}

fn node(item: Item) -> Node {
    Node { place: Place::default(), item, secret: false }
}

impl Rig {
    fn new(pattern: &str, options: Vec<(&'static str, Item)>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = Item::Array(vec![node(text(&format!("{}/{pattern}", directory.path().display())))]);
        let options = [vec![("files", files), ("path_tag", text(""))], options].concat();
        Self { directory, options, resume: Resume::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Runs the input until `work` is done, stops it and remembers where it stood, as the agent would.
    async fn run<'r>(&'r mut self, work: impl AsyncFnOnce(&Self, &mut Receiver)) -> Receiver {
        let entries = self.options.iter().map(|(k, i)| ((*k).to_owned(), Place::default(), node(i.clone()))).collect();
        let (table, diagnostics) = (Table { entries }, Diagnostics::default());
        let context = BuildContext {
            name: "tail".into(),
            interval: Duration::from_secs(1),
            internal: Arc::new(Vec::new),
            directory: self.directory.path().to_owned(),
        };
        let built = build(&Section::new("inputs.tail", &table, Place::default(), &diagnostics), &context).unwrap();
        let AnyInput::Streaming(mut input) = built.input else { panic!("tail is streaming") };
        let (collector, mut receiver) = testing::collector();
        let mut context = testing::context(collector, self.resume.clone());
        let stop = context.stop.clone();
        let (done, ()) = tokio::join!(input.run(&mut context), async {
            work(self, &mut receiver).await;
            stop.request();
        });
        done.unwrap();
        receiver.positions.iter().for_each(|p| self.resume.apply(p));
        receiver
    }
}

/// Longest time anything may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `count` lines came.
async fn lines(receiver: &mut Receiver, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let come = async {
        while lines.len() < count {
            lines.extend(receiver.take());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, come).await.unwrap_or_else(|_| panic!("the lines did not come"));
    lines
}

/// Waits until a position was recorded.
async fn position(receiver: &mut Receiver) {
    let come = async {
        while receiver.positions.is_empty() {
            receiver.take();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, come).await.unwrap_or_else(|_| panic!("no position came"));
}

#[test]
fn a_log_that_is_named_without_a_directory_is_looked_for_where_the_agent_runs() {
    for (path, directory) in [("in.lp", "."), ("logs/in.lp", "logs"), ("./in.lp", "."), ("/in.lp", "/"), ("/var/log/in.lp", "/var/log")] {
        assert_eq!(directory_of(Path::new(path)), Path::new(directory));
    }
}

#[tokio::test]
async fn a_file_is_followed_from_its_end_and_a_line_waits_for_its_newline() {
    let mut rig = Rig::new("a.log", vec![]);
    rig.append("a.log", "old v=1 1\n");
    let receiver = rig.run(async |rig, receiver| {
        position(receiver).await;
        rig.append("a.log", "m v=1 1\nm v=");
        assert_eq!(lines(receiver, 1).await, ["m v=1 1"]);
        rig.append("a.log", "2 2\n");
        assert_eq!(lines(receiver, 1).await, ["m v=2 2"]);
    });
    assert_eq!(receiver.await.counts.refused_parse, 0);
}

#[tokio::test]
async fn lines_written_while_it_was_down_are_read_once_even_after_a_rename() {
    let mut rig = Rig::new("a.log", vec![("from_beginning", Item::Bool(true))]);
    rig.append("a.log", "m v=1 1\nm v=2 2\nm v=");
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 2).await.len(), 2)).await;
    rig.append("a.log", "3 3\n");
    std::fs::rename(rig.path("a.log"), rig.path("a.log.1")).unwrap();
    rig.append("a.log", "m v=4 4\n");
    rig.run(async |_, receiver| {
        let mut lines = lines(receiver, 2).await;
        lines.sort();
        assert_eq!(lines, ["m v=3 3", "m v=4 4"]);
    })
    .await;
    rig.append("a.log", "m v=5 5\n");
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 1).await, ["m v=5 5"])).await;
}

#[tokio::test]
async fn rotation_by_rename_and_by_truncation_loses_nothing() {
    let mut rig = Rig::new("*.log", vec![("initial_read_offset", text("beginning"))]);
    rig.append("a.log", "m v=1 1\n");
    let receiver = rig.run(async |rig, receiver| {
        assert_eq!(lines(receiver, 1).await, ["m v=1 1"]);
        rig.append("a.log", "m v=2 2\n");
        std::fs::rename(rig.path("a.log"), rig.path("a.old")).unwrap();
        rig.append("a.log", "m v=3 3\n");
        rig.append("a.old", "m v=4 4\n");
        let mut all = lines(receiver, 3).await;
        all.sort();
        assert_eq!(all, ["m v=2 2", "m v=3 3", "m v=4 4"]);
        std::fs::write(rig.path("a.log"), "n v=5 5\nn v=6 6\nn v=7 7\n").unwrap();
        assert_eq!(lines(receiver, 3).await, ["n v=5 5", "n v=6 6", "n v=7 7"]);
        std::fs::write(rig.path("a.log"), "").unwrap();
        rig.append("a.log", "n v=8 8\n");
        assert_eq!(lines(receiver, 1).await, ["n v=8 8"]);
    });
    assert_eq!(receiver.await.counts.not_recorded(), 0);
}

#[tokio::test]
async fn a_file_that_has_lost_only_its_end_is_read_anew() {
    let mut rig = Rig::new("a.log", vec![("from_beginning", Item::Bool(true))]);
    let all: Vec<String> = (1000..1500).map(|i| format!("m v={i} {i}")).collect();
    rig.append("a.log", &(all.join("\n") + "\n"));
    let whole = "m v=1000 1000\n".len() as u64;
    let receiver = rig.run(async |rig, receiver| {
        assert_eq!(lines(receiver, 500).await, all);
        // How it begins is as it was, and so far that nothing else tells it.
        OpenOptions::new().write(true).open(rig.path("a.log")).unwrap().set_len(200 * whole).unwrap();
        assert_eq!(lines(receiver, 200).await, all[..200]);
    });
    receiver.await;
}

#[tokio::test]
async fn another_file_in_the_same_inode_is_read_from_its_beginning() {
    let mut rig = Rig::new("a.log", vec![("from_beginning", Item::Bool(true))]);
    rig.append("a.log", "m v=1 1\n");
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 1).await.len(), 1)).await;
    std::fs::write(rig.path("a.log"), "n v=1 1\nn v=2 2\n").unwrap();
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 2).await, ["n v=1 1", "n v=2 2"])).await;
}

#[tokio::test]
async fn every_batch_says_where_it_ends() {
    let mut rig = Rig::new("a.log", vec![("from_beginning", Item::Bool(true))]);
    let all: Vec<String> = (0..5000).map(|i| format!("m v={i} {i}")).collect();
    rig.append("a.log", &(all.join("\n") + "\n"));
    // A crash: of what was sent only the first two batches became durable.
    let receiver = rig.run(async |_, receiver| assert_eq!(lines(receiver, 5000).await, all)).await;
    let mut resume = Resume::default();
    receiver.positions[..2].iter().for_each(|p| resume.apply(p));
    let Position::Files(files) = &receiver.positions[1] else { panic!("a position of files") };
    let first = all.join("\n")[..files[0].offset as usize].lines().count();
    rig.resume = resume;
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 5000 - first).await, &all[first..])).await;
}

#[cfg(feature = "codec-csv")]
#[tokio::test]
async fn a_header_counts_after_a_restart_too() {
    let options = vec![("data_format", text("csv")), ("csv_header_row_count", Item::Int(1)), ("from_beginning", Item::Bool(true))];
    let mut rig = Rig::new("a.csv", options);
    rig.append("a.csv", "t,h\n1,2\n");
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 1).await, ["test t=1i,h=2i ?"])).await;
    rig.append("a.csv", "3,4\n");
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 1).await, ["test t=3i,h=4i ?"])).await;
}

#[cfg(feature = "codec-json")]
#[tokio::test]
async fn a_line_with_more_points_than_a_batch_holds_is_one_batch_with_the_position_behind_it() {
    let mut rig = Rig::new("a.json", vec![("data_format", text("json")), ("from_beginning", Item::Bool(true))]);
    let document = |n: usize| format!("[{}]\n", (0..3000).map(|i| format!(r#"{{"n":{}}}"#, n + i)).collect::<Vec<_>>().join(","));
    let (first, second) = (document(0), document(3000));
    rig.append("a.json", &format!("{first}{second}"));
    rig.run(async |_, receiver| {
        let mut offsets = Vec::new();
        for points in [3000, 3000] {
            let batch = loop {
                if let Some(batch) = receiver.ring.try_recv() {
                    break batch;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            assert_eq!(batch.points, points);
            let Position::Files(files) = &batch.position else { panic!("no position") };
            offsets.push(files[0].offset);
            receiver.ring.recycle(batch);
        }
        assert_eq!(offsets, [first.len() as u64, (first.len() + second.len()) as u64]);
    })
    .await;
}

fn from_beginning(pattern: &str) -> Rig {
    Rig::new(pattern, vec![("from_beginning", Item::Bool(true))])
}

#[tokio::test]
async fn a_line_larger_than_any_record_may_be_costs_only_itself() {
    let mut rig = from_beginning("a.lp");
    // A hole of zeros without an end of a line.
    std::fs::File::create(rig.path("a.lp")).unwrap().set_len(100 << 20).unwrap();
    rig.append("a.lp", "\nm v=1 1\n");
    let receiver = rig.run(async |_, receiver| assert_eq!(lines(receiver, 1).await, ["m v=1 1"])).await;
    assert_eq!((receiver.counts.read, receiver.counts.refused_size), (2, 1));
}

#[tokio::test]
async fn pipes_and_directories_among_the_files_hold_nothing_up() {
    let mut rig = from_beginning("*.lp");
    std::fs::create_dir(rig.path("directory.lp")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(rig.path("pipe.lp")).status().unwrap().success());
    std::os::unix::fs::symlink(rig.path("nowhere"), rig.path("dangling.lp")).unwrap();
    rig.append("z.lp", "m v=1 1\n");
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 1).await, ["m v=1 1"])).await;
}

#[tokio::test]
async fn a_file_that_is_deleted_or_whose_directory_goes_is_read_to_its_end_and_goes_on_when_it_is_back() {
    let mut rig = from_beginning("logs/*.lp");
    std::fs::create_dir(rig.path("logs")).unwrap();
    rig.append("logs/a.lp", "m v=1 1\n");
    rig.run(async |rig, receiver| {
        assert_eq!(lines(receiver, 1).await, ["m v=1 1"]);
        // The writer still holds the file that was deleted.
        let mut held = OpenOptions::new().append(true).open(rig.path("logs/a.lp")).unwrap();
        std::fs::remove_file(rig.path("logs/a.lp")).unwrap();
        held.write_all(b"m v=2 2\n").unwrap();
        assert_eq!(lines(receiver, 1).await, ["m v=2 2"]);
        rig.append("logs/a.lp", "m v=3 3\n");
        assert_eq!(lines(receiver, 1).await, ["m v=3 3"]);
        std::fs::rename(rig.path("logs"), rig.path("away")).unwrap();
        rig.append("away/a.lp", "m v=4 4\n");
        assert_eq!(lines(receiver, 1).await, ["m v=4 4"]);
        std::fs::rename(rig.path("away"), rig.path("logs")).unwrap();
        rig.append("logs/a.lp", "m v=5 5\n");
        assert_eq!(lines(receiver, 1).await, ["m v=5 5"]);
    })
    .await;
}

#[tokio::test]
async fn parts_of_a_log_that_was_rotated_while_it_was_down_are_read_in_the_order_they_were_written() {
    let mut rig = Rig::new("a.log*", vec![("from_beginning", Item::Bool(true))]);
    rig.append("a.log", "m v=1 1\n");
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 1).await, ["m v=1 1"])).await;
    rig.append("a.log", "m v=2 2\n");
    std::fs::rename(rig.path("a.log"), rig.path("a.log.9")).unwrap();
    for (age, name, line) in [(3, "a.log.10", "m v=3 3\n"), (2, "a.log.11", "m v=4 4\n"), (1, "a.log", "m v=5 5\n")] {
        rig.append(name, line);
        let file = OpenOptions::new().append(true).open(rig.path(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    let oldest = OpenOptions::new().append(true).open(rig.path("a.log.9")).unwrap();
    oldest.set_modified(std::time::SystemTime::now() - Duration::from_secs(9)).unwrap();
    let expected = ["m v=2 2", "m v=3 3", "m v=4 4", "m v=5 5"];
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 4).await, expected)).await;
}

#[tokio::test]
async fn a_log_rotated_twice_between_two_looks_is_read_in_the_order_it_was_written() {
    let mut rig = from_beginning("a.log*");
    rig.append("a.log", "m v=1 1\n");
    rig.run(async |rig, receiver| {
        assert_eq!(lines(receiver, 1).await, ["m v=1 1"]);
        for n in 2..12 {
            rig.append("a.log", &format!("m v={n} {n}\n"));
            for old in (1..n).rev().filter(|old| rig.path(&format!("a.log.{old}")).exists()) {
                std::fs::rename(rig.path(&format!("a.log.{old}")), rig.path(&format!("a.log.{}", old + 1))).unwrap();
            }
            std::fs::rename(rig.path("a.log"), rig.path("a.log.1")).unwrap();
        }
        rig.append("a.log", "m v=12 12\n");
        let expected: Vec<String> = (2..13).map(|n| format!("m v={n} {n}")).collect();
        assert_eq!(lines(receiver, 11).await, expected);
    })
    .await;
}

#[tokio::test]
async fn a_file_system_that_is_another_device_after_a_reboot_has_the_same_files() {
    let mut rig = Rig::new("a.log", vec![("from_beginning", Item::Bool(true))]);
    rig.append("a.log", "m v=1 1\nm v=2 2\n");
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 2).await, ["m v=1 1", "m v=2 2"])).await;
    let renumber = |rig: &mut Rig| {
        let files = std::mem::take(&mut rig.resume).files.into_values();
        files.for_each(|f| rig.resume.touch(FilePosition { file: (f.file.0 + 1, f.file.1), ..f }));
    };
    renumber(&mut rig);
    rig.append("a.log", "m v=3 3\n");
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 1).await, ["m v=3 3"])).await;
    renumber(&mut rig);
    rig.append("a.log", "m v=4 4\n");
    std::fs::rename(rig.path("a.log"), rig.path("a.log.1")).unwrap();
    rig.append("a.log", "m v=5 5\n");
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 2).await, ["m v=4 4", "m v=5 5"])).await;
    renumber(&mut rig);
    std::fs::write(rig.path("a.log"), "m v=6 6\nm v=7 7\n").unwrap();
    rig.run(async |_, receiver| assert_eq!(lines(receiver, 2).await, ["m v=6 6", "m v=7 7"], "another file in that inode")).await;
}
