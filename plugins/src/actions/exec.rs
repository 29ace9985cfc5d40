//! The exec action: runs a command once per transition, which is in its environment and, as JSON, on its standard input.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};
use weir_plugin_api::{
    options::Section,
    plugin::{ActionEntry, AnyAction, BoxFuture, BuildContext, EdgeAction, Notification, Outcome, Rejection},
};

use super::{notification_json, words};

/// Bytes of a command's complaints that are shown.
const SHOWN_MAX: u64 = 2048;

weir_plugin_api::options! {
    /// Options of the exec action.
    pub struct ExecOptions {
        /// Program and its arguments; no shell is involved.
        command: Vec<String>,
        /// Further variables, `NAME=value`. `WEIR_ALERT`, `WEIR_STATE`, `WEIR_SEVERITY`, `WEIR_VALUE`, `WEIR_N`, `WEIR_TIME`,
        /// `WEIR_HISTORICAL`, `WEIR_TAGS`, `WEIR_KEY` and `WEIR_TAG_<KEY>` are set always.
        environment: Vec<String> = Vec::new(),
        /// Time after which the command is killed.
        timeout: Duration = Duration::from_secs(5),
        /// How often a command that fails is run again before the transition is given up.
        retries: u32 = 2,
    }
}

/// The registry's entry.
pub static ENTRY: ActionEntry =
    ActionEntry { name: "exec", about: "runs a command once per transition", specs: ExecOptions::specs, unsupported: &[], build };

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<AnyAction> {
    let options = ExecOptions::read(section)?;
    if options.command.first().is_none_or(String::is_empty) {
        section.error_at("command", "`command`: needs a program to run, for example [\"/usr/bin/logger\", \"-t\", \"weir\"]");
        return None;
    }
    if options.environment.iter().any(|variable| variable.split_once('=').is_none_or(|(name, _)| name.is_empty())) {
        section.error_at("environment", "`environment`: expected variables such as \"NAME=value\"");
        return None;
    }
    if options.timeout.is_zero() {
        section.error_at("timeout", "`timeout`: must be longer than 0");
        return None;
    }
    Some(AnyAction::Edge(Box::new(Exec { options, failed: (String::new(), 0) })))
}

struct Exec {
    options: ExecOptions,
    /// The transition that failed last, and how often.
    failed: (String, u32),
}

impl Exec {
    async fn run(&mut self, notification: &Notification) -> Outcome {
        let mut child = match self.command(notification).spawn() {
            Ok(child) => child,
            // A program that is missing will be missing again: a person must act.
            Err(error) => return Outcome::Hold { reason: format!("cannot run {}: {error}", self.options.command[0]) },
        };
        let text = notification_json::json(notification) + "\n";
        let result = tokio::time::timeout(self.options.timeout, finish(&mut child, &text)).await;
        let reason = match result {
            Ok(Ok(None)) => return Outcome::delivered(),
            Ok(Ok(Some(complaint))) => complaint,
            Ok(Err(error)) => format!("waiting for the command failed: {error}"),
            Err(_) => {
                let _ = child.kill().await;
                "killed, because it took longer than `timeout`".to_owned()
            }
        };
        self.failure(notification, reason)
    }

    fn command(&self, notification: &Notification) -> Command {
        let mut command = Command::new(&self.options.command[0]);
        command.args(&self.options.command[1..]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command.envs(self.options.environment.iter().filter_map(|variable| variable.split_once('=')));
        command
            .env("WEIR_ALERT", &notification.alert)
            .env("WEIR_STATE", &notification.state)
            .env("WEIR_SEVERITY", &notification.severity)
            .env("WEIR_VALUE", words::value(notification))
            .env("WEIR_N", notification.n.to_string())
            .env("WEIR_TIME", words::time(notification))
            .env("WEIR_HISTORICAL", notification.historical.to_string())
            .env("WEIR_TAGS", words::tags(notification).replace('\0', ""))
            .env("WEIR_KEY", notification.idempotency_key.replace('\0', ""));
        for (key, value) in &notification.tags {
            let name: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
            command.env(format!("WEIR_TAG_{name}"), value.replace('\0', ""));
        }
        command
    }

    fn failure(&mut self, notification: &Notification, reason: String) -> Outcome {
        if self.failed.0 != notification.idempotency_key {
            self.failed = (notification.idempotency_key.clone(), 0);
        }
        self.failed.1 += 1;
        if self.failed.1 <= self.options.retries {
            return Outcome::Retry { after: None, reason };
        }
        Outcome::Delivered { rejected: vec![Rejection { index: 0, status: "failed".into(), reason }], collapsed: 0, token: 0 }
    }
}

/// Hands the document over and waits for the end; gives what went wrong, if anything did.
async fn finish(child: &mut Child, text: &str) -> std::io::Result<Option<String>> {
    if let Some(mut input) = child.stdin.take() {
        // A command that does not read is within its rights.
        let _ = input.write_all(text.as_bytes()).await;
    }
    let mut complaint = Vec::new();
    if let Some(mut errors) = child.stderr.take() {
        (&mut errors).take(SHOWN_MAX).read_to_end(&mut complaint).await?;
        tokio::io::copy(&mut errors, &mut tokio::io::sink()).await?;
    }
    let status = child.wait().await?;
    if status.success() {
        return Ok(None);
    }
    let complaint = String::from_utf8_lossy(&complaint);
    Ok(Some(format!("{status}: {}", complaint.trim()).trim_end_matches([':', ' ']).to_owned()))
}

impl EdgeAction for Exec {
    fn fire<'a>(&'a mut self, notification: &'a Notification) -> BoxFuture<'a, Outcome> {
        Box::pin(self.run(notification))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Instant;

    use super::*;
    use crate::actions::words::sample;

    fn shell(script: &str) -> Exec {
        let command = vec!["/bin/sh".into(), "-c".into(), script.into()];
        let options = ExecOptions { command, environment: vec!["WHERE=here".into()], timeout: Duration::from_secs(20), retries: 1 };
        Exec { options, failed: (String::new(), 0) }
    }

    #[tokio::test]
    async fn a_command_finds_the_transition_in_its_environment_and_input() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let script = format!("(echo $WEIR_ALERT $WEIR_STATE $WEIR_TAG_DEVICE $WEIR_VALUE $WHERE; cat) > {}", path.display());
        assert_eq!(shell(&script).fire(&sample()).await, Outcome::delivered());
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(written, format!("overheat firing boiler \"1\" 81.5 here\n{}\n", notification_json::json(&sample())));
    }

    #[tokio::test]
    async fn a_command_that_fails_is_run_again_and_then_given_up() {
        let mut exec = shell("echo it is broken >&2; exit 3");
        let first = exec.fire(&sample()).await;
        assert!(matches!(&first, Outcome::Retry { reason, .. } if reason == "exit status: 3: it is broken"), "{first:?}");
        let second = exec.fire(&sample()).await;
        assert!(matches!(&second, Outcome::Delivered { rejected, .. } if rejected.len() == 1), "{second:?}");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed() {
        let mut exec = shell("exec sleep 60");
        exec.options.timeout = Duration::from_millis(50);
        let begun = Instant::now();
        let outcome = exec.fire(&sample()).await;
        assert!(matches!(&outcome, Outcome::Retry { reason, .. } if reason.contains("killed")), "{outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_program_that_is_missing_waits_for_a_person() {
        let mut exec = shell("");
        exec.options.command = vec!["/nonexistent/program".into()];
        let outcome = exec.fire(&sample()).await;
        assert!(matches!(&outcome, Outcome::Hold { reason } if reason.contains("/nonexistent/program")), "{outcome:?}");
    }
}
