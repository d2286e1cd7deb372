# Shared by ./run and ./test: what is printed, and what is installed when it is missing.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PATH="$HOME/.cargo/bin:/usr/sbin:/sbin:$PATH"
export DEBIAN_FRONTEND=noninteractive

if [ -t 1 ]; then BOLD=$(printf '\033[1m') PLAIN=$(printf '\033[0m'); else BOLD='' PLAIN=''; fi

step() { printf '%s==> %s%s\n' "$BOLD" "$*" "$PLAIN"; }

# One sentence that says what is in the way, and one that says what to do about it.
fail() {
  printf '%s: %s\n' "$(basename "$0")" "$1" >&2
  [ -z "${2:-}" ] || printf '  fix: %s\n' "$2" >&2
  exit "${3:-3}"
}

need_root() {
  [ "$(id -u)" -eq 0 ] || fail "this needs root: containers need namespaces, mounts and nftables" "sudo $0 $*"
}

need_kernel() {
  local release major minor
  release=$(uname -r)
  major=${release%%.*}
  minor=${release#*.}
  minor=${minor%%[!0-9]*}
  if [ "$major" -lt 5 ] || { [ "$major" -eq 5 ] && [ "$minor" -lt 10 ]; }; then
    fail "the kernel is $release, and 5.10 is the oldest that works" "boot a newer kernel (Debian 12 has 6.1)"
  fi
}

# need_space FOLDER MIB
need_space() {
  local free
  free=$(df -Pm "$1" | awk 'NR == 2 { print $4 }')
  [ "$free" -ge "$2" ] || fail "the disk of $1 is full: $free MiB free, $2 MiB needed" "free some space and run this again"
}

# install_packages NAME...: Debian packages that are missing.
install_packages() {
  local missing=() p
  for p in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "these packages are missing, and this is no Debian: ${missing[*]}" "install them by hand"
  step "Installing ${missing[*]}"
  local log policy=
  log=$(mktemp)
  # They are wanted for their programs: the services in them are not to be started (policy-rc.d(8)).
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    policy=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 0755 "$policy"
  fi
  # A package list that is there already may do: the list is fetched only when it does not.
  if ! apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
    if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
      tail -n 5 "$log" >&2
      rm -f "$log" ${policy:+"$policy"}
      fail "the packages ${missing[*]} could not be installed" "check the network and the package sources, then run this again"
    fi
  fi
  rm -f "$log" ${policy:+"$policy"}
}

install_rust() {
  if command -v cargo >/dev/null; then
    local have
    have=$(rustc --version | sed 's/^rustc 1\.\([0-9]*\)\..*/\1/')
    [ "$have" -ge 90 ] || fail "the Rust compiler is 1.$have, and 1.90 is the oldest that works" "rustup update stable"
    return 0
  fi
  step "Installing Rust"
  install_packages curl ca-certificates
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt >/dev/null 2>&1 ||
    fail "Rust could not be installed" "check the network, or install it by hand from https://rustup.rs"
}

install_kubectl() {
  command -v kubectl >/dev/null && return 0
  step "Installing kubectl"
  install_packages curl ca-certificates
  local arch
  arch=$(dpkg --print-architecture)
  curl -fsSL -o /usr/local/bin/kubectl "https://dl.k8s.io/release/v1.36.0/bin/linux/$arch/kubectl" ||
    fail "kubectl could not be installed" "check the network, or install it by hand: https://kubernetes.io/docs/tasks/tools/"
  chmod 0755 /usr/local/bin/kubectl
}

# What building and running needs.
prerequisites() {
  install_packages gcc libc6-dev pkg-config libseccomp-dev nftables debootstrap busybox-static ca-certificates
  install_rust
}

# The libraries of other languages that the tests run against Windlass, in a folder of the build's.
install_clients() {
  local dir=$1 source=$ROOT/tests/e2e/clients log
  command -v npm >/dev/null || install_packages nodejs npm
  python3 -c 'import ensurepip' 2>/dev/null || install_packages python3 python3-venv
  log=$(mktemp)
  if ! cmp -s "$source/python/requirements.txt" "$dir/python/requirements.txt"; then
    step "Installing the Python client"
    { python3 -m venv --clear "$dir/python" && "$dir/python/bin/pip" install -q -r "$source/python/requirements.txt"; } >"$log" 2>&1 ||
      { tail -n 5 "$log" >&2; fail "the Python client could not be installed" "check the network, then run this again"; }
    cp "$source/python/requirements.txt" "$dir/python/"
  fi
  if ! cmp -s "$source/javascript/package.json" "$dir/javascript/package.json" || [ ! -d "$dir/javascript/node_modules" ]; then
    step "Installing the JavaScript client"
    mkdir -p "$dir/javascript"
    cp "$source/javascript/package.json" "$dir/javascript/"
    (cd "$dir/javascript" && npm install --no-package-lock --no-audit --no-fund) >"$log" 2>&1 ||
      { tail -n 5 "$log" >&2; rm -rf "$dir/javascript"; fail "the JavaScript client could not be installed" "check the network, then run this again"; }
  fi
  rm -f "$log"
}
