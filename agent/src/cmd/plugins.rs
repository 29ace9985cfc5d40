//! `weir plugins`: what this build has, and which options.

use std::fmt::Write;

use clap::Args;
use weir_plugin_api::options::OptionSpec;
use weir_plugins::codecs;

use super::{
    DONE, WRONG, print,
    sample_config::{Sample, all},
};

/// `weir plugins`.
#[derive(Args, Debug)]
pub struct Plugins {
    /// List the options of these: `mqtt_consumer`, or `inputs.mqtt_consumer` where the name alone is ambiguous.
    plugin: Vec<String>,
    /// List the options of every plugin.
    #[arg(long)]
    options: bool,
}

impl Plugins {
    /// Runs it.
    pub fn run(self) -> u8 {
        let all = all();
        for wanted in &self.plugin {
            if !all.iter().any(|sample| sample.is(wanted)) {
                eprintln!("error: there is no plugin {wanted}; `weir plugins` lists what there is");
                return WRONG;
            }
        }
        let mut out = String::new();
        if self.plugin.is_empty() && !self.options {
            table(&all, &mut out);
        } else {
            let chosen = |sample: &&Sample| self.plugin.is_empty() || self.plugin.iter().any(|wanted| sample.is(wanted));
            all.iter().filter(chosen).for_each(|sample| options(sample, &mut out));
        }
        print(&out);
        DONE
    }
}

fn table(all: &[Sample], out: &mut String) {
    for kind in ["inputs", "outputs", "actions"] {
        let _ = writeln!(out, "{kind}");
        for sample in all.iter().filter(|sample| sample.kind == kind) {
            let _ = writeln!(out, "  {:<22} {}", sample.name, sample.about);
        }
        out.push('\n');
    }
    let _ = writeln!(out, "formats\n  {:<22} {}", "read (data_format)", codecs::READS.join(", "));
    let _ = writeln!(out, "  {:<22} {}\n", "write (data_format)", codecs::WRITES.join(", "));
    let _ = writeln!(out, "`weir plugins NAME` lists the options of one, `weir sample-config NAME` prints them as a configuration.");
}

fn options(sample: &Sample, out: &mut String) {
    let _ = writeln!(out, "{}.{}: {}\n", sample.kind, sample.name, sample.about);
    rows(&sample.specs, out);
    let _ = writeln!(out, "\n  and what every one of the {} takes\n", sample.kind);
    rows(&sample.common, out);
    if !sample.unsupported.is_empty() {
        let _ = writeln!(out, "\n  Telegraf's options that Weir does not support: {}", sample.unsupported.join(", "));
    }
    out.push('\n');
}

fn rows(specs: &[OptionSpec], out: &mut String) {
    let width = specs.iter().map(|spec| spec.name.len()).max().unwrap_or(0);
    for spec in specs {
        let default = match spec.default.as_deref() {
            None => "required".to_owned(),
            Some("") => "not set".to_owned(),
            Some(default) => format!("default {default}"),
        };
        let _ = writeln!(out, "  {:<width$}  {}, {default}\n  {:<width$}    {}", spec.name, spec.kind.trim_end(), "", spec.doc);
    }
}
