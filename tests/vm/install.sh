#!/usr/bin/env bash
# Tries a package of this machine's architecture on this machine and leaves nothing behind:
#   tests/vm/install.sh <weir_….deb> <weir-….tar.gz>
# In a Debian root of its own, under a systemd of its own in namespaces: installed, started, fed, upgraded, killed, removed, purged; the
# tarball unpacked and started.
# Needs root and a kernel with cgroup2; the empty root is made once, in ${WEIR_CACHE:-~/.cache/weir}.
set -euo pipefail

[ $# -eq 2 ] || { sed -n '3s/^# *//p' "$0" >&2; exit 2; }
deb=$(realpath "$1") tarball=$(realpath "$2")
cache=${WEIR_CACHE:-$HOME/.cache/weir}
empty=$cache/root-bookworm
if [ ! -e "$empty/.complete" ]; then
  rm -rf "$empty" && mkdir -p "$empty"
  debootstrap --variant=minbase --include=systemd,systemd-sysv,udev,dbus,procps,adduser,curl bookworm "$empty/root" \
    "$(apt-get indextargets --format '$(SITE)' | grep -m 1 '/debian/\?$')" >"$empty/log" 2>&1 || { tail -20 "$empty/log" >&2; exit 1; }
  umount -l "$empty/root/proc" "$empty/root/sys" 2>/dev/null || true
  rm -f "$empty"/root/var/cache/apt/archives/*.deb
  touch "$empty/.complete"
fi

work=$(mktemp -d)
root=$work/root
machine=
clean() {
  # The first process of the namespaces takes all others and every mount with it.
  [ -z "$machine" ] || { kill -9 "$(cat "$work/first")" && wait "$machine"; } 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT
cp -a "$empty/root" "$root"
cp "$deb" "$root/root/weir.deb"
cp "$tarball" "$root/root/weir.tar.gz"

# shellcheck disable=SC2016
unshare --mount --pid --uts --ipc --cgroup --net --fork bash -euc '
  root=$1
  mount --make-rprivate /
  ip link set lo up 2>/dev/null || true
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
    read -r name major minor <<<"$node"
    mknod -m 666 "$root/dev/$name" c "$major" "$minor"
  done
  mkdir "$root/dev/pts" "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  exec chroot "$root" env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=null --show-status=0
' machine "$root" >"$work/console" 2>&1 &
machine=$!
until first=$(pgrep -P "$machine") && [ "$(cat "/proc/$first/comm")" = systemd ]; do
  kill -0 "$machine" 2>/dev/null || { cat "$work/console" >&2; exit 1; }
  sleep 0.1
done
echo "$first" >"$work/first"

# `inside` runs a shell command there; `holds` waits until one succeeds, at most half a minute; `gone` says that one does not.
inside() {
  nsenter -t "$first" -m -p -u -i -C -n chroot "$root" \
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive sh -c "$1" >"$work/said" 2>&1
}
failed() {
  echo "not so: $*" >&2
  cat "$work/said" >&2
  inside 'journalctl --no-pager -n 30 -u weir' || true
  cat "$work/said" >&2
  exit 1
}
holds() {
  local tries=0
  until inside "$2"; do
    [ $((tries += 1)) -lt 100 ] || failed "$1"
    sleep 0.3
  done
}
gone() { ! inside "$2" || failed "$1"; }
must() { inside "$2" || failed "$1"; }
# Posts a reading, and waits for the answer that says that it is on the disk.
post() { must "a reading is taken" "curl -sf --max-time 20 -d 'boiler temperature=$1 ${1}000000000' 127.0.0.1:8086/write"; }
written() { holds "$1 readings are written, each once" "test \"\$(sort -u /var/lib/weir/out.lp | wc -l)\" = $1 && test \"\$(wc -l </var/lib/weir/out.lp)\" = $1"; }

holds "systemd is up" 'systemctl is-system-running | grep -E "running|degraded"'
must "it installs" 'apt-get install -y -q --no-install-recommends /root/weir.deb'
holds "the service runs" 'systemctl is-active weir && systemctl is-enabled weir'
must "its user is in the groups" 'for g in dialout gpio i2c spi; do id -nG weir | tr " " "\n" | grep -qx $g || exit 1; done; test "$(ps -o user= -C weir)" = weir'
must "the configuration is not for everybody" 'test "$(stat -c "%a %G" /etc/weir/weir.toml)" = "640 weir"'
must "the state is its own" 'test "$(stat -c "%a %U" /var/lib/weir)" = "700 weir"'

cat >>"$root/etc/weir/weir.toml" <<'TOML'
# The administrator's.
[[inputs.influxdb_listener]]
service_address = "127.0.0.1:8086"
[[outputs.file]]
files = ["/var/lib/weir/out.lp"]
namepass = ["boiler"]
TOML
must "it starts with another configuration" 'systemctl restart weir'
post 1
written 1
must "it is killed" 'systemctl kill -s KILL weir'
holds "it comes back" 'test "$(systemctl show -p NRestarts --value weir)" = 1 && systemctl is-active weir'
post 2
written 2

version=$(dpkg-deb -f "$deb" Version)
dpkg-deb -R "$deb" "$work/tree"
sed -i "s/^Version: .*/Version: $version+1/" "$work/tree/DEBIAN/control"
dpkg-deb --root-owner-group -Zgzip -b "$work/tree" "$root/root/newer.deb" >/dev/null
must "there is a process" 'pgrep -x weir >/run/before'
must "it upgrades" 'apt-get install -y -q --no-install-recommends /root/newer.deb'
must "the newer one is installed" "dpkg-query -W -f '\${Version}' weir | grep -qx '$version+1'"
holds "it was restarted" 'systemctl is-active weir && ! pgrep -x weir | grep -qx "$(cat /run/before)"'
must "the administrator's words are kept" 'grep -q "The administrator" /etc/weir/weir.toml'
post 3
written 3

must "it can be removed" 'apt-get remove -y -q weir'
gone "it is stopped" 'pgrep -x weir'
gone "no program is left" 'test -e /usr/bin/weir'
must "removing keeps state and configuration" 'test -e /var/lib/weir/id && grep -q "The administrator" /etc/weir/weir.toml'
must "it can be purged" 'apt-get purge -y -q weir'
gone "purging leaves nothing" 'ls -d /var/lib/weir /etc/weir /etc/default/weir /lib/systemd/system/weir.service /etc/systemd/system/*/weir.service /usr/share/doc/weir 2>/dev/null | grep . || getent passwd weir'

# By hand, as the README says it for machines without a package.
must "the tarball is unpacked" 'tar -C / --strip-components 1 --keep-directory-symlink -xzf /root/weir.tar.gz && test -L /lib'
must "it has a user" 'adduser --quiet --system --group --no-create-home --home /var/lib/weir weir'
must "it is started" 'systemctl daemon-reload && systemctl enable --now weir && systemctl is-active weir'
echo "$(basename "$deb"): installed, started, killed, upgraded, removed, purged; $(basename "$tarball"): unpacked, started"
