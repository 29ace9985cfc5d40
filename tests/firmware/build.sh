#!/usr/bin/env bash
# Builds the firmware shim for microcontrollers.
#   targets  the library for four kinds of processor, of which two have no compare-and-swap
#   image    the image QEMU runs: says what flash and RAM it takes, fails above the bound, and prints its path last
# With rustup's libraries where they can be had, else (or with WEIR_DEBIAN_RUSTC=1) with Debian's rustc and its sources of core.
set -euo pipefail
cd "$(dirname "$0")/../.."

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${WEIR_CACHE:-$HOME/.cache/weir}/target}
export CARGO_TERM_COLOR=never
board=thumbv7m-none-eabi
targets=("$board" thumbv6m-none-eabi thumbv7em-none-eabihf riscv32imc-unknown-none-elf)
# Bytes; static RAM only, the board's 64 KiB less that are stack. Raise them with a reason.
flash_max=$((28 * 1024))
ram_max=$((10 * 1024))

build() { # target, cargo arguments
  local target=$1
  shift
  if [ -z "${WEIR_DEBIAN_RUSTC:-}" ] && { rustup target list --installed 2>/dev/null | grep -qx "$target" || rustup target add "$target" >/dev/null 2>&1; }; then
    cargo build --quiet --release --locked --target "$target" "$@"
    return
  fi
  [ -e /usr/lib/rustlib/src/rust/library ] || { echo "no library of Rust for $target: run tests/setup.sh" >&2; exit 1; }
  local variable=CARGO_TARGET_${target//-/_}_LINKER
  env RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 "${variable^^}=$(linker)" \
    /usr/bin/cargo build --quiet --release --locked --target "$target" -Zbuild-std=core "$@"
}

linker() {
  local lld
  lld=$(find "$(rustc --print sysroot 2>/dev/null)" -name rust-lld 2>/dev/null | head -1)
  echo "${lld:-ld.lld}"
}

case ${1:-} in
  targets)
    for target in "${targets[@]}"; do
      echo "firmware-shim for $target"
      build "$target" -p weir-firmware-shim
    done
    ;;
  image)
    build "$board" --manifest-path firmware-shim/board/Cargo.toml
    image=$CARGO_TARGET_DIR/$board/release/station
    size "$image"
    read -r text data bss _ < <(size "$image" | tail -1)
    flash=$((text + data)) ram=$((data + bss))
    echo "flash $flash of $flash_max bytes, static RAM $ram of $ram_max bytes"
    [ "$flash" -le "$flash_max" ] && [ "$ram" -le "$ram_max" ] || { echo "the image is above its bound" >&2; exit 1; }
    echo "$image"
    ;;
  *)
    echo "usage: tests/firmware/build.sh targets | image" >&2
    exit 2
    ;;
esac
