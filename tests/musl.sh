#!/usr/bin/env bash
# Makes what links for armv7-unknown-linux-musleabihf where rustup has no standard library for it: Debian's musl for armhf beside the
# cross compiler's own library, once, into ${WEIR_CACHE:-~/.cache/weir}/musl-<key>, and prints that folder: `lib` holds the libraries,
# `musl-gcc` is the linker.
# The key is a digest of this script and the one it uses.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
folder=${WEIR_CACHE:-$HOME/.cache/weir}/musl-$(cat "${BASH_SOURCE[0]}" "$here/apt.sh" | sha256sum | cut -c1-12)
echo "$folder"
[ -e "$folder/.complete" ] && exit
exec 1>&2

rm -rf "$folder" && mkdir -p "$folder/lib"
work=$(mktemp -d "$folder/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
(
  . "$here/apt.sh"
  cd "$work"
  foreign_apt "$work" armhf
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
