#!/usr/bin/env bash
# Measures the release binary on instances of its own, and takes them down again. As root. Every figure of the README
# comes from one run of this.
set -euo pipefail
cd "$(dirname "$0")/.."
TARGET=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --release --locked -q -p windlass -p bench
BIN=$TARGET/release/windlass
BENCH=$TARGET/release/bench
NAME=bench
DATA=$(mktemp -d /var/tmp/windlass-bench.XXXXXX)
PORT=${BENCH_PORT:-17443}
TRACES=${BENCH_TRACES_PORT:-17318}
down() {
  "$BIN" down --purge --name "$NAME" --data-dir "$DATA" >/dev/null 2>&1 || true
}
cleanup() {
  down
  rm -rf "$DATA"
}
trap cleanup EXIT

# up [OPTION...]: a fresh instance, at rest.
up() {
  "$BIN" server --detach --name "$NAME" --data-dir "$DATA" --api-port "$PORT" "$@" >/dev/null
  export KUBECONFIG="$DATA/admin.kubeconfig"
}

echo "machine: $(nproc) cores, $(uname -r), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)"
echo "load before: $(cut -d' ' -f1-3 /proc/loadavg)"
echo

# load_image: the image of the pods.
load_image() {
  local root
  root=$(mktemp -d "$DATA/root.XXXXXX")
  mkdir -p "$root/bin" "$root/etc"
  cp -L "$(command -v busybox)" "$root/bin/busybox"
  ln -s busybox "$root/bin/sh"
  ln -s busybox "$root/bin/sleep"
  ln -s busybox "$root/bin/true"
  tar -C "$root" -cf "$DATA/busybox.tar" .
  "$BIN" image import "$DATA/busybox.tar" --tag windlass.local/bench:1 --name "$NAME" --data-dir "$DATA" >/dev/null
}

load_image
"$BENCH" start --binary "$BIN" --name "$NAME" --data-dir "$DATA" --port "$PORT"
echo
up
kubectl wait --for=condition=Ready node --all --timeout=60s >/dev/null
# Let the start settle: what is measured is the instance at rest.
sleep 10
"$BENCH" idle --run-dir "/run/windlass-$NAME"
echo
"$BENCH" pods --kubeconfig "$KUBECONFIG" --image windlass.local/bench:1 --run-dir "/run/windlass-$NAME"
echo
"$BENCH" api --kubeconfig "$KUBECONFIG" --run-dir "/run/windlass-$NAME"
echo
down
mkdir -p "$DATA"

# On an instance of its own: the objects of before are not to be counted.
up
"$BENCH" memory --kubeconfig "$KUBECONFIG" --run-dir "/run/windlass-$NAME" --pods "${BENCH_PODS:-100000}"
"$BIN" down --name "$NAME" --data-dir "$DATA" >/dev/null
up
"$BENCH" memory --kubeconfig "$KUBECONFIG" --run-dir "/run/windlass-$NAME" --restarted
echo
down
mkdir -p "$DATA"

# Where the time of a pod goes.
load_image
up --tracing-endpoint "http://127.0.0.1:$TRACES"
kubectl wait --for=condition=Ready node --all --timeout=60s >/dev/null
"$BENCH" traces --kubeconfig "$KUBECONFIG" --image windlass.local/bench:1 --listen "127.0.0.1:$TRACES"
echo
down
mkdir -p "$DATA"
etcd=$(command -v etcd || true)
"$BENCH" raw --dir "$DATA" ${etcd:+--etcd "$etcd"}
