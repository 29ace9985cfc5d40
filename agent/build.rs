//! Packs the executable's relocations where the system it is built for can read that.
//!
//! A position-independent executable corrects tens of thousands of addresses when it starts. Listed one by one they are 0.7 MB of the
//! file, and memory too, as the loader reads them all; as bitmaps they are a few pages. glibc reads the packed form from 2.36
//! (2022) on and an older one refuses to start the executable, so the C library that is linked against is asked. Whatever cannot be found out leaves
//! the ordinary form, which works everywhere.

use std::{env, fs, process::Command};

/// What a C library that reads the packed form says of itself.
const PROMISE: &[u8] = b"GLIBC_ABI_DT_RELR";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let target = |part: &str| env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" && library_reads_packed_relocations() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Asks the compiler that links, for a foreign target the one configured for it, where its C library is, and looks into that.
fn library_reads_packed_relocations() -> bool {
    let native = env::var_os("HOST") == env::var_os("TARGET");
    let Some(linker) = env::var_os("RUSTC_LINKER").or_else(|| native.then(|| "cc".into())) else { return false };
    let Ok(output) = Command::new(linker).arg("-print-file-name=libc.so.6").output() else { return false };
    let path = String::from_utf8_lossy(&output.stdout);
    let Ok(library) = fs::read(path.trim()) else { return false };
    library.windows(PROMISE.len()).any(|bytes| bytes == PROMISE)
}
