#!/usr/bin/env bash
# Makes what links for armv7-unknown-linux-musleabihf where rustup has no standard library for it: Debian's musl for armhf beside the
# cross compiler's own library, once, into ${WEIR_CACHE:-~/.cache/weir}/musl-<key>, and prints that folder: `lib` holds the libraries,
# `musl-gcc` is the linker.
# The key is a digest of this script. System and apt stay as they are.
set -euo pipefail

cache=${WEIR_CACHE:-$HOME/.cache/weir}
folder=$cache/musl-$(sha256sum "${BASH_SOURCE[0]}" | cut -c1-12)
echo "$folder"
[ -e "$folder/.complete" ] && exit
exec 1>&2

rm -rf "$folder" && mkdir -p "$folder/lib"
work=$(mktemp -d "$folder/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mirror=$(apt-get indextargets --format '$(SITE)' | grep -m 1 '/debian/\?$')
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
touch "$work/status"
printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s bookworm main\n' "$mirror" >"$work/sources.list"
cat >"$work/apt.conf" <<CONF
APT::Architecture "armhf"; APT::Architectures {"armhf";}; APT::Sandbox::User "root";
Dir::State "$work"; Dir::State::lists "$work/lists"; Dir::State::status "$work/status";
Dir::Cache "$work/cache"; Dir::Etc::sourcelist "$work/sources.list"; Dir::Etc::sourceparts "-";
CONF
(
  cd "$work"
  export APT_CONFIG=$work/apt.conf
  apt-get update -qq
  apt-get download -qq musl-dev
  dpkg -x musl-dev_*.deb "$work/root"
)
cp "$work"/root/usr/lib/arm-linux-musleabihf/*.[ao] "$folder/lib/"
# What unwinds is called otherwise by musl's own compilers; the cross compiler's needs nothing of glibc.
cp "$(dirname "$(arm-linux-gnueabihf-gcc -print-libgcc-file-name)")/libgcc_eh.a" "$folder/lib/libunwind.a"
# The cross compiler would take glibc's start files and libraries.
cat >"$folder/musl-gcc" <<LINK
#!/bin/sh
exec arm-linux-gnueabihf-gcc -nostdlib -static $folder/lib/crt1.o $folder/lib/crti.o "\$@" -L$folder/lib \\
  -Wl,--start-group -lc -lgcc -lunwind -Wl,--end-group $folder/lib/crtn.o
LINK
chmod +x "$folder/musl-gcc"
touch "$folder/.complete"
