//! The file output through crashes, short files and full devices.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

#[cfg(feature = "codec-influx")]
use weir_plugin_api::Value;

use super::*;
use crate::outputs::testing::{PlainEncoder, numbered};
#[cfg(feature = "codec-influx")]
use crate::outputs::testing::{build, points, text, texts};

fn output(files: &[&Path], directory: &Path) -> FileOutput {
    let files = files.iter().map(|f| f.to_str().unwrap().to_owned()).collect();
    FileOutput::new(FileOptions { files, use_batch_format: false }, Box::new(PlainEncoder), directory.join("origin"))
}

fn token(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Delivered { token, .. } => *token,
        other => panic!("{other:?}"),
    }
}

fn at(token: u64) -> OutputResume {
    OutputResume { token, known: true, ..OutputResume::default() }
}

#[tokio::test]
async fn what_was_not_confirmed_is_cut_off_before_it_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.lp");
    let mut first = output(&[&path], dir.path());
    first.open(at(0)).await.unwrap();
    let confirmed = token(&first.write(Lane::Results, &numbered(2)).await);
    assert_eq!(confirmed, fs::metadata(&path).unwrap().len());
    first.write(Lane::Results, &numbered(3)).await;
    drop(first);

    let mut second = output(&[&path], dir.path());
    second.open(at(confirmed)).await.unwrap();
    second.write(Lane::Results, &numbered(1)).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "m v=0 1\nm v=1 2\nm v=0 1\n");
}

#[tokio::test]
async fn a_crash_before_the_first_token_is_remembered_repeats_nothing_and_spares_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.lp");
    fs::write(&path, "# mine\n").unwrap();
    for _ in 0..2 {
        let mut output = output(&[&path], dir.path());
        output.open(at(0)).await.unwrap();
        output.write(Lane::Results, &numbered(1)).await;
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "# mine\nm v=0 1\n");
}

#[tokio::test]
async fn files_of_different_lengths_are_each_cut_at_their_own_place() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::write(&b, "longer to begin with\n").unwrap();
    let mut first = output(&[&a, &b], dir.path());
    first.open(at(0)).await.unwrap();
    let confirmed = token(&first.write(Lane::Results, &numbered(1)).await);
    first.write(Lane::Alerts, &numbered(2)).await;
    let mut second = output(&[&a, &b], dir.path());
    second.open(at(confirmed)).await.unwrap();
    assert_eq!(fs::read_to_string(&a).unwrap(), "m v=0 1\n");
    assert_eq!(fs::read_to_string(&b).unwrap(), "longer to begin with\nm v=0 1\n");
}

#[tokio::test]
async fn a_file_that_is_new_in_the_configuration_is_never_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    fs::write(&new, "somebody else's data, longer than the token\n").unwrap();
    let mut first = output(&[&old], dir.path());
    first.open(at(0)).await.unwrap();
    let confirmed = token(&first.write(Lane::Results, &numbered(1)).await);
    let mut second = output(&[&new], dir.path());
    second.open(at(confirmed)).await.unwrap();
    second.write(Lane::Results, &numbered(1)).await;
    let mut third = output(&[&new], dir.path());
    third.open(at(confirmed)).await.unwrap();
    assert_eq!(fs::read_to_string(&new).unwrap(), "somebody else's data, longer than the token\n");
}

#[tokio::test]
async fn an_output_that_is_not_remembered_takes_nothing_back_and_is_cut_at_its_own_place_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.lp");
    let mut first = output(&[&path], dir.path());
    first.open(OutputResume::default()).await.unwrap();
    first.write(Lane::Results, &numbered(2)).await;
    let mut second = output(&[&path], dir.path());
    second.open(OutputResume::default()).await.unwrap();
    let confirmed = token(&second.write(Lane::Results, &numbered(1)).await);
    second.write(Lane::Results, &numbered(2)).await;
    let mut third = output(&[&path], dir.path());
    third.open(at(confirmed)).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "m v=0 1\nm v=1 2\nm v=0 1\n");
}

#[tokio::test]
async fn a_file_that_lost_bytes_is_not_extended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.lp");
    let mut output = output(&[&path], dir.path());
    output.open(at(1000)).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    output.write(Lane::Results, &numbered(1)).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "m v=0 1\n");
}

#[tokio::test]
async fn a_file_that_is_moved_away_or_removed_is_followed_by_a_new_one_that_is_cut_at_its_own_place() {
    let dir = tempfile::tempdir().unwrap();
    let (path, away) = (dir.path().join("out.lp"), dir.path().join("out.lp.1"));
    let mut first = output(&[&path], dir.path());
    first.open(at(0)).await.unwrap();
    first.write(Lane::Results, &numbered(2)).await;
    fs::rename(&path, &away).unwrap();
    let confirmed = token(&first.write(Lane::Results, &numbered(1)).await);
    assert_eq!(fs::read_to_string(&away).unwrap(), "m v=0 1\nm v=1 2\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "m v=0 1\n");
    first.write(Lane::Results, &numbered(2)).await;
    drop(first);

    let mut second = output(&[&path], dir.path());
    second.open(at(confirmed)).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "m v=0 1\n", "what was not confirmed is cut off");
    fs::remove_file(&path).unwrap();
    second.write(Lane::Results, &numbered(1)).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "m v=0 1\n");
    assert_eq!(fs::read_to_string(&away).unwrap(), "m v=0 1\nm v=1 2\n");
}

#[tokio::test]
async fn a_write_that_is_tried_again_does_not_lengthen_a_file_that_was_emptied_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.lp");
    let mut output = output(&[&path, Path::new("/dev/full")], dir.path());
    output.open(at(0)).await.unwrap();
    lock(&output.files).confirmed[0] = 100;
    output.write(Lane::Results, &numbered(1)).await;
    output.write(Lane::Results, &numbered(1)).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "m v=0 1\nm v=0 1\n");
}

#[tokio::test]
async fn a_full_device_is_tried_again_and_repeats_nothing_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.lp");
    let mut output = output(&[&path, Path::new("/dev/full")], dir.path());
    output.open(at(0)).await.unwrap();
    for _ in 0..3 {
        let outcome = output.write(Lane::Results, &numbered(1)).await;
        assert!(matches!(&outcome, Outcome::Retry { reason, .. } if reason.contains("/dev/full")), "{outcome:?}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "m v=0 1\n");
}

#[tokio::test]
async fn a_directory_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none/out.lp");
    let error = output(&[&path], dir.path()).open(at(0)).await.unwrap_err();
    assert!(error.0.contains("none/out.lp"), "{error}");
}

#[tokio::test]
async fn a_write_whose_caller_went_away_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.lp");
    let mut output = output(&[&path], dir.path());
    output.open(at(0)).await.unwrap();
    let points = numbered(2);
    let mut write = output.write(Lane::Results, &points);
    assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx).is_pending())).await);
    drop(write);
    output.write(Lane::Results, &points).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "m v=0 1\nm v=1 2\n");
}

#[cfg(feature = "codec-influx")]
#[tokio::test]
async fn points_are_line_protocol_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.lp");
    let options = [("files", texts(&[path.to_str().unwrap()]))];
    let mut output = build(&ENTRY, &options, dir.path()).unwrap();
    output.open(at(0)).await.unwrap();
    let fields = [("v", Value::Float(1.5)), ("n", Value::Int(2))];
    output.write(Lane::Results, &points(&[("m", &[("a", "b c")], &fields, 7)])).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "m,a=b\\ c v=1.5,n=2i 7\n");
    let error = build(&ENTRY, &[("files", texts(&[])), ("rotation_interval", text("1h"))], dir.path()).map(|_| ()).unwrap_err();
    assert!(error.contains("at least one file") && error.contains("rotation_interval"), "{error}");
}

#[tokio::test]
async fn an_output_that_is_new_by_a_name_there_was_takes_nothing_back_at_the_start_after_one_it_could_not_be_opened_at() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.lp");
    let mut before = output(&[&path], dir.path());
    before.open(at(0)).await.unwrap();
    token(&before.write(Lane::Results, &numbered(2)).await);
    // It was removed from the configuration, and comes back; it is killed before it is opened.
    output(&[&path], dir.path()).forget();
    output(&[&path], dir.path()).forget();
    let mut again = output(&[&path], dir.path());
    again.open(at(0)).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "m v=0 1\nm v=1 2\n");
}

#[tokio::test]
async fn an_output_that_cannot_forget_what_another_of_its_name_remembered_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.lp");
    let mut before = output(&[&path], dir.path());
    before.open(at(0)).await.unwrap();
    token(&before.write(Lane::Results, &numbered(2)).await);
    fs::create_dir(dir.path().join("origin.origin.new")).unwrap();
    assert!(output(&[&path], dir.path()).open(OutputResume::default()).await.is_err(), "the next start would cut the file");
    fs::remove_dir(dir.path().join("origin.origin.new")).unwrap();
    output(&[&path], dir.path()).open(OutputResume::default()).await.unwrap();
    output(&[&path], dir.path()).open(at(0)).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "m v=0 1\nm v=1 2\n");
}

#[tokio::test]
async fn a_file_is_not_cut_where_what_is_remembered_of_it_is_damaged_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, origin) = (dir.path().join("out.lp"), dir.path().join("origin"));
    fs::write(&path, "# mine, and longer than what follows\n").unwrap();
    let mut first = output(&[&path], dir.path());
    first.open(at(0)).await.unwrap();
    let confirmed = token(&first.write(Lane::Results, &numbered(2)).await);
    let (there, remembered) = (fs::read_to_string(&path).unwrap(), fs::read_to_string(&origin).unwrap());
    for damaged in [String::new(), remembered[..3].to_owned(), remembered.replacen('3', "1", 1), "\0".repeat(remembered.len())] {
        assert_ne!(damaged, remembered);
        fs::write(&origin, damaged).unwrap();
        output(&[&path], dir.path()).open(at(confirmed)).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), there);
    }
    fs::write(&origin, remembered).unwrap();
    output(&[&path], dir.path()).open(at(0)).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "# mine, and longer than what follows\n", "whole again it is believed");
}

/// A regular file that takes bytes and can't be synced: the name of this process.
#[tokio::test]
async fn what_can_t_be_synced_is_not_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let path = Path::new("/proc/self/comm");
    assert!(fs::metadata(path).unwrap().is_file());
    let mut output = output(&[path], dir.path());
    output.open(at(0)).await.unwrap();
    let outcome = output.write(Lane::Results, &numbered(1)).await;
    assert!(matches!(&outcome, Outcome::Retry { reason, .. } if reason.contains("/proc/self/comm")), "{outcome:?}");
}

#[test]
fn an_origin_that_can_t_be_synced_takes_the_place_of_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("output-out.origin");
    let remembered = |length| {
        let mut origin = Origin::default();
        origin.set(Path::new("out.lp"), 0, length);
        origin
    };
    remembered(5).save(&path).unwrap();
    // A device takes what is written to it and keeps nothing.
    std::os::unix::fs::symlink("/dev/null", dir.path().join("output-out.origin.new")).unwrap();
    assert!(remembered(9).save(&path).is_err());
    assert_eq!(Origin::load(&path), remembered(5));
}
