//! Packs the executable's relocations where the system it is built for can read that.
//!
//! A position-independent executable corrects tens of thousands of addresses when it starts. Listed one by one they are 0.7 MB of the
//! file, and memory too, as the loader reads them all; as bitmaps they are a few pages. glibc reads the packed form from 2.36
//! (2022) on and an older one refuses to start the executable, so the linker and the C library that is linked against are asked. Whatever
//! cannot be found out leaves the ordinary form, which works everywhere.

use std::{env, ffi::OsStr, fs, path::Path, process::Command};

/// What a C library that reads the packed form says of itself.
const PROMISE: &[u8] = b"GLIBC_ABI_DT_RELR";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let target = |part: &str| env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    if target("OS") != "linux" || target("ENV") != "gnu" {
        return;
    }
    // For a foreign target the one that is configured for it; the system's own compiler could not link for it.
    let native = env::var_os("HOST") == env::var_os("TARGET");
    let Some(linker) = env::var_os("RUSTC_LINKER").or_else(|| native.then(|| "cc".into())) else { return };
    if library_reads_packed_relocations(&linker) && linker_packs_relocations(&linker) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Asks where the C library is, and looks into that.
fn library_reads_packed_relocations(linker: &OsStr) -> bool {
    let Ok(output) = Command::new(linker).arg("-print-file-name=libc.so.6").output() else { return false };
    let path = String::from_utf8_lossy(&output.stdout);
    let Ok(library) = fs::read(path.trim()) else { return false };
    library.windows(PROMISE.len()).any(|bytes| bytes == PROMISE)
}

/// Links nothing with the option; a linker that does not know it only warns, which is to count.
fn linker_packs_relocations(linker: &OsStr) -> bool {
    let Some(directory) = env::var_os("OUT_DIR") else { return false };
    Command::new(linker)
        .args(["-shared", "-nostdlib", "-Wl,--fatal-warnings,-z,pack-relative-relocs", "-x", "c", "/dev/null", "-o"])
        .arg(Path::new(&directory).join("probe"))
        .output()
        .is_ok_and(|output| output.status.success())
}
