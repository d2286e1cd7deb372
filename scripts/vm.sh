#!/usr/bin/env bash
# Runs test programs in a small virtual machine whose kernel has the cgroup mode that is asked for: a host has one, and which
# it is was decided when it booted. The machine has Debian's kernel and a root file system of its own, made here of the few
# programs that the tests call; the host lends it processor time and memory, and nothing else.
set -uo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
  cat <<'USAGE'
Usage: scripts/vm.sh [--cgroups v1|v2] [--minutes N] [--memory MIB] [--append WORDS] WINDLASS SUITE... [-- FILTER...]
  WINDLASS   the binary under test
  SUITE      a test program of tests/e2e
  FILTER     words handed to each suite
  --append   words for the command line of the kernel, e.g. hugepages=64
Prints what the suites print and ends with their status. Where the machine cannot be had it prints "skipped: " and why, and
ends well: a test that cannot be is no failure.
USAGE
}

cgroups=v2 minutes=15 memory=3072 append=
while [ $# -gt 0 ]; do
  case $1 in
    --cgroups) cgroups=${2:?} && shift 2 ;;
    --minutes) minutes=${2:?} && shift 2 ;;
    --memory) memory=${2:?} && shift 2 ;;
    --append) append=${2:?} && shift 2 ;;
    -h | --help) usage && exit 0 ;;
    *) break ;;
  esac
done
[ $# -ge 2 ] || { usage >&2 && exit 2; }
windlass=$1
shift
suites=() filters=()
while [ $# -gt 0 ]; do
  [ "$1" != -- ] || { shift && filters=("$@") && break; }
  suites+=("$1")
  shift
done

skip() {
  echo "skipped: pods on cgroup $cgroups: $1"
  exit 0
}

[ "$(uname -m)" = x86_64 ] || skip "the virtual machine is for x86-64 only"
available=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
[ "$available" -ge "$memory" ] || skip "$available MiB of memory are available, and $memory are needed"
problem=$(install_packages qemu-system-x86 busybox-static cpio e2fsprogs binutils iproute2 nftables 2>&1) ||
  skip "its packages could not be installed: $(echo "$problem" | grep -v '^==>' | head -n 1)"

WORK=$(mktemp -d "${TMPDIR:-/tmp}/windlass-vm.XXXXXX")
machine=
end_machine() { [ -z "$machine" ] || kill -KILL "$machine" 2>/dev/null; }
trap 'end_machine; rm -rf "$WORK"' EXIT
trap 'exit 130' INT TERM

newest_kernel() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1; }

# A Debian kernel in the build's folder, unpacked and not installed: the host goes on booting what it booted before.
fetch_kernel() {
  local package
  package=$(newest_kernel)
  [ -n "$package" ] || { apt-get update >/dev/null 2>&1 && package=$(newest_kernel); }
  [ -n "$package" ] || return 1
  KERNEL=$ROOT/target/vm/$package RELEASE=${package#linux-image-}
  [ ! -d "$KERNEL" ] || return 0
  mkdir -p "$ROOT/target/vm" "$WORK/deb"
  (cd "$WORK/deb" && { apt-get download "$package" || { apt-get update && apt-get download "$package"; }; }) >/dev/null 2>&1 || return 1
  dpkg -x "$WORK"/deb/*.deb "$WORK/kernel" || return 1
  # Debian 13 has its modules below /usr.
  [ -d "$WORK/kernel/lib" ] || ln -s usr/lib "$WORK/kernel/lib"
  busybox depmod -b "$WORK/kernel" "$RELEASE" && mv "$WORK/kernel" "$KERNEL"
}

# What translates AppArmor profiles for the kernel, which has that module. Without it the tests have no default profile.
fetch_parser() {
  PARSER=$ROOT/target/vm/apparmor
  [ ! -d "$PARSER" ] || return 0
  mkdir -p "$ROOT/target/vm" "$WORK/parser"
  (cd "$WORK/parser" && apt-get download apparmor >/dev/null 2>&1 && dpkg -x ./*.deb "$WORK/apparmor") && mv "$WORK/apparmor" "$PARSER"
}

# The server of NFS, whose other half is the kernel: what the host does not have, with the libraries that are its own.
fetch_nfs() {
  NFS=$ROOT/target/vm/nfs
  [ ! -d "$NFS" ] || return 0
  mkdir -p "$ROOT/target/vm" "$WORK/nfs-debs"
  local libraries package
  libraries=$(apt-cache depends nfs-kernel-server libtirpc3 libtirpc3t64 2>/dev/null | sed -n 's/.*Depends: \(lib[^ ]*\)$/\1/p' | grep -vx libc6 | sort -u)
  (cd "$WORK/nfs-debs" && for package in nfs-kernel-server $libraries; do apt-get download "$package" >/dev/null 2>&1; done)
  ls "$WORK"/nfs-debs/nfs-kernel-server*.deb >/dev/null 2>&1 || return 1
  for package in "$WORK"/nfs-debs/*.deb; do dpkg -x "$package" "$WORK/nfs" || return 1; done
  mv "$WORK/nfs" "$NFS"
}

# with_libraries PROGRAM AS: puts a program and the libraries it loads into the root file system, these where the host has them.
with_libraries() {
  local library
  install -D -m 0755 "$1" "$2" || return 1
  # A static program has none.
  for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*'); do
    # Those of packages that are only unpacked are there already.
    [ "${library#"$WORK"}" = "$library" ] || continue
    [ -e "$WORK/root$library" ] || install -D -m 0755 "$library" "$WORK/root$library" || return 1
  done
}

make_root() {
  local root=$WORK/root program file n=0
  mkdir -p "$root"/{usr/bin,usr/sbin,usr/lib/modules,usr/lib64,etc,proc,sys,dev,run,tmp,var/lib,var/tmp,root,vm/tests}
  for program in bin sbin lib lib64; do ln -s "usr/$program" "$root/$program"; done
  chmod 1777 "$root/tmp" "$root/var/tmp"
  for program in busybox kubectl nft ip script tar find md5sum unshare bash mount umount; do
    file=$(command -v "$program") || { echo "the tests need $program" && return 1; }
    with_libraries "$file" "$root/usr/bin/$program" || return 1
  done
  # busybox's own shell would prefer its applets to those programs.
  ln -s bash "$root/usr/bin/sh"
  # Every other program that is called (mount, cat, …) is busybox's.
  for program in $(busybox --list); do
    [ -e "$root/usr/bin/$program" ] || ln -s busybox "$root/usr/bin/$program"
  done
  ln -s ../bin/busybox "$root/usr/sbin/modprobe"
  program=$(find "$PARSER" -name apparmor_parser -type f 2>/dev/null | head -n 1)
  if [ -n "$program" ]; then
    with_libraries "$program" "$root/usr/sbin/apparmor_parser" || return 1
    # What it reads: its settings, the version of the language, and what profiles share.
    mkdir -p "$root/usr/share"
    cp -r "$PARSER/etc/apparmor" "$PARSER/etc/apparmor.d" "$root/etc/" &&
      cp -r "$PARSER/usr/share/apparmor-features" "$root/usr/share/" || return 1
  fi
  if [ -d "$NFS" ]; then
    # Before the programs, so that what only these packages bring is there when the host's libraries are added.
    for file in $(find "$NFS" -name '*.so*' \( -type f -o -type l \)); do
      install -d "$root/usr/lib/x86_64-linux-gnu" && cp -P "$file" "$root/usr/lib/x86_64-linux-gnu/" || return 1
    done
    for program in exportfs rpc.mountd rpc.nfsd; do
      LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu \
        with_libraries "$(find "$NFS" -name $program -type f)" "$root/usr/sbin/$program" || return 1
    done
    ! [ -f "$NFS/etc/netconfig" ] || cp "$NFS/etc/netconfig" "$root/etc/"
    mkdir -p "$root/var/lib/nfs/v4recovery" && touch "$root/var/lib/nfs/etab" "$root/var/lib/nfs/rmtab" "$root/etc/exports"
  fi
  with_libraries "$windlass" "$root/usr/bin/windlass" || return 1
  for program in "${suites[@]}"; do
    n=$((n + 1))
    with_libraries "$program" "$root/vm/tests/$n" || return 1
  done
  # Without what only a debugger reads, which is most of a test program.
  strip "$root/usr/bin/windlass" "$root"/vm/tests/* || return 1
  install -m 0755 "$ROOT/scripts/vm/init" "$ROOT/scripts/vm/suites" "$root/vm/"
  printf '%s\n' "$cgroups" >"$root/vm/cgroups"
  [ ${#filters[@]} -eq 0 ] || printf '%s\n' "${filters[@]}" >"$root/vm/filters"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
  printf '127.0.0.1 localhost vm\n' >"$root/etc/hosts"
  printf 'PRETTY_NAME="Windlass test machine"\nID=windlass-vm\n' >"$root/etc/os-release"
  printf '::once:/vm/suites\n' >"$root/etc/inittab"
  cp -r "$KERNEL/lib/modules/$RELEASE" "$root/usr/lib/modules/"
  # Sparse: what the machine does not write takes no room. It lives as long as the test, so no journal.
  mke2fs -q -F -t ext4 -O ^has_journal -E lazy_itable_init=1 -m 0 -d "$root" "$WORK/disk" 6G >/dev/null || return 1
  rm -rf "$root"
}

# What finds the disk: the modules of it, and those that they need.
make_initramfs() {
  local dir=$WORK/initramfs table=$KERNEL/lib/modules/$RELEASE name module
  mkdir -p "$dir"/{bin,dev,proc,sys,root} || return 1
  for name in virtio_pci virtio_blk ext4; do
    # `path: needed needed`; what is built in has no line.
    for module in $(grep -E "/$name\.ko[^/ ]*:" "$table/modules.dep" | tr -d ':'); do
      install -D -m 0644 "$table/$module" "$dir/lib/modules/$RELEASE/$module" || return 1
    done
  done
  cp "$table"/modules.{dep,alias,symbols} "$dir/lib/modules/$RELEASE/" &&
    install -m 0755 "$(command -v busybox)" "$dir/bin/busybox" &&
    install -m 0755 "$ROOT/scripts/vm/initramfs" "$dir/init" &&
    (cd "$dir" && find . | cpio -o -H newc --quiet) >"$WORK/initrd"
}

# Whether the processor runs another kernel itself. /dev/kvm alone does not say so: a host that is a virtual machine may have one
# that runs nothing but kernels made for it.
has_kvm() { [ -r /dev/kvm ] && [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; }

boot() {
  local shown ended=0 processor=(-accel "tcg,thread=multi" -cpu max)
  ! has_kvm || processor=(-accel kvm -cpu host)
  echo "processor of the virtual machine: ${processor[1]%%,*}"
  # Whether the timer of the machine works cannot be told on a host that is so busy that an emulated one stands still.
  local words="console=ttyS0 quiet panic=-1 mitigations=off no_timer_check now=$(date +%s) $append"
  [ "$cgroups" = v1 ] || words="$words cgroup_no_v1=all"
  : >"$WORK/out"
  qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -machine q35 "${processor[@]}" -smp 2 -m "$memory" \
    -kernel "$KERNEL/boot/vmlinuz-$RELEASE" -initrd "$WORK/initrd" -append "$words" -nic none \
    -drive "file=$WORK/disk,format=raw,if=virtio,cache=unsafe" -serial "file:$WORK/console" \
    -device virtio-serial-pci -chardev "file,id=out,path=$WORK/out" -device virtserialport,chardev=out \
    </dev/null >"$WORK/qemu.log" 2>&1 &
  machine=$!
  # The suites' lines as they come.
  tail -n +1 -f --pid="$machine" "$WORK/out" | grep --line-buffered -v '^vm: status ' &
  shown=$!
  timeout "$((minutes * 60))" tail --pid="$machine" -f /dev/null || ended=1
  end_machine
  wait "$machine" "$shown" 2>/dev/null
  machine=
  [ $ended -eq 0 ] || late=1
}

fetch_kernel || skip "Debian's kernel could not be fetched"
fetch_parser || echo "AppArmor in the virtual machine: there is no apparmor_parser"
fetch_nfs || echo "NFS in the virtual machine: its server could not be fetched"
make_root && make_initramfs || { echo "the disk of the virtual machine could not be made" && exit 1; }
late=0
boot
# Emulated, it is as slow as the host is busy: what the tests said until then counts.
if [ $late -eq 1 ] && ! has_kvm && ! grep -q '^test .* FAILED$' "$WORK/out"; then
  skip "the rest, since the emulated machine did not end within $minutes minutes"
fi
[ $late -eq 0 ] || echo "the virtual machine did not end within $minutes minutes"
status=$(sed -n 's/^vm: status //p' "$WORK/out" | tail -n 1)
if [ -z "$status" ]; then
  echo "the virtual machine ended before the suites did; the end of its console:"
  tail -n 40 "$WORK/qemu.log" "$WORK/console"
  exit 1
fi
exit "$status"
