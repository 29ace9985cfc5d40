#!/usr/bin/env bash
# Makes the virtual machine of the tests: Debian 12 for arm64 with systemd, once, into ${WEIR_CACHE:-~/.cache/weir}/vm-<key>:
# root.img (ext4), vmlinuz and initrd.img. The key is a digest of this script and the one it uses: a change of them makes a new image.
# Needs root: debootstrap, and the kernel's binfmt_misc to run arm64 programs while the packages are configured.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
folder=${WEIR_CACHE:-$HOME/.cache/weir}/vm-$(cat "${BASH_SOURCE[0]}" "$here/../apt.sh" | sha256sum | cut -c1-12)
echo "$folder"
[ -e "$folder/.complete" ] && exit
exec 3>&1 1>&2

# The handlers of qemu-user-static are registered when its package is configured, and lost with the machine's next start.
binfmt=/proc/sys/fs/binfmt_misc
[ -e $binfmt/register ] || mount -t binfmt_misc none $binfmt
[ -e $binfmt/qemu-aarch64 ] ||
  printf '%s' ':qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:F' >$binfmt/register

rm -rf "$folder" && mkdir -p "$folder"
work=$(mktemp -d "$folder/work.XXXXXX")
root=$work/root
clean() {
  umount -l "$root/proc" "$root/sys" 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT

. "$here/../apt.sh"
echo "building the arm64 virtual machine (some minutes, once)"
# Without a kernel package: its initramfs, made under emulation, would take longer than all the rest.
debootstrap --arch=arm64 --variant=minbase \
  --include=systemd,systemd-sysv,udev,dbus,kmod,gpiod,procps,iproute2,socat,strace,tzdata,curl,adduser,ca-certificates \
  bookworm "$root" "$mirror" >"$folder/debootstrap.log" 2>&1 || { tail -20 "$folder/debootstrap.log"; exit 1; }
umount -l "$root/proc" "$root/sys" 2>/dev/null || true
rm -f "$root"/var/cache/apt/archives/*.deb

# The kernel and the few modules the machine's devices need, straight from the package.
mkdir "$work/apt" "$work/kernel"
(
  cd "$work/apt"
  foreign_apt "$work/apt" arm64
  kernel=$(apt-cache depends linux-image-arm64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
  apt-get download -qq "$kernel" busybox-static
  for deb in *.deb; do dpkg -x "$deb" "$work/kernel"; done
)
version=$(basename "$work"/kernel/lib/modules/*)
depmod -b "$work/kernel" "$version"
mkdir -p "$root/lib/modules"
cp -a "$work/kernel/lib/modules/$version" "$root/lib/modules/"
cp "$work"/kernel/boot/vmlinuz-* "$folder/vmlinuz"

# An initramfs that loads the disk's and the file system's modules and hands over.
ram=$work/ram
mkdir -p "$ram"/{bin,proc,sys,dev,new,modules}
cp "$work/kernel/bin/busybox" "$ram/bin/busybox"
order=()
for module in virtio_blk virtio_pci virtio_mmio ext4 crc32c_generic; do
  while read -r _ path; do
    order+=("$(basename "$path")")
    cp "$path" "$ram/modules/"
  done < <(modprobe -d "$work/kernel" -S "$version" --show-depends "$module" | grep ^insmod)
done
{
  echo '#!/bin/busybox sh'
  echo 'busybox mount -t proc none /proc; busybox mount -t sysfs none /sys; busybox mount -t devtmpfs none /dev'
  printf 'busybox insmod /modules/%s 2>/dev/null\n' "${order[@]}"
  echo 'n=0; until [ -b /dev/vda ] || [ $n -ge 100 ]; do busybox sleep 0.1; n=$((n+1)); done'
  echo 'busybox mount -t ext4 /dev/vda /new || { echo no root file system; busybox poweroff -f; }'
  echo 'busybox mount --move /dev /new/dev; busybox umount /proc /sys; exec busybox switch_root /new /sbin/init'
} >"$ram/init"
chmod +x "$ram/init"
(cd "$ram" && find . | cpio --quiet -o -H newc | gzip -1) >"$folder/initrd.img"

# The tests' way in: a port on which each connection says a command in its first line and gets its output and its exit code.
cat >"$root/usr/local/sbin/rig" <<'RIG'
#!/bin/bash
IFS= read -r command
exec 2>&1
bash -c "$command"
echo "exit=$?"
RIG
chmod +x "$root/usr/local/sbin/rig"
cat >"$root/etc/systemd/system/rig.service" <<'RIG'
[Unit]
DefaultDependencies=no
After=systemd-networkd.service
[Service]
ExecStart=/usr/bin/socat -t 600 TCP-LISTEN:2222,reuseaddr,fork EXEC:/usr/local/sbin/rig
KillMode=process
Restart=always
RIG
ln -sf /etc/systemd/system/rig.service "$root/etc/systemd/system/multi-user.target.wants/rig.service"
echo weir-vm >"$root/etc/hostname"
: >"$root/etc/machine-id"
echo '/dev/vda / ext4 defaults,noatime 0 1' >"$root/etc/fstab"
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer e2scrub_reap; do
  rm -f "$root"/etc/systemd/system/*.wants/"$unit" "$root"/etc/systemd/system/*.wants/"$unit.service"
done
# Serial lines whose consoles the tests use; the key module would take GPIO line 3.
echo 'blacklist gpio_keys' >"$root/etc/modprobe.d/weir-tests.conf"
printf 'virtio_net\nvirtio_console\nftdi_sio\ngpio-pl061\ni6300esb\n' >"$root/etc/modules-load.d/weir-tests.conf"
mkdir -p "$root/etc/systemd/network"
printf '[Match]\nType=ether\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/10-any.network"
ln -sf /lib/systemd/system/systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"

truncate -s 1200M "$work/root.img"
mke2fs -q -F -t ext4 -d "$root" "$work/root.img"
mv "$work/root.img" "$folder/root.img"
touch "$folder/.complete"
