#!/usr/bin/env bash
# Measures the release binary on an instance of its own, and takes the instance down again. As root.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked -q -p windlass -p bench
BIN=$PWD/target/release/windlass
BENCH=$PWD/target/release/bench
NAME=bench
DATA=$(mktemp -d /var/tmp/windlass-bench.XXXXXX)
PORT=${BENCH_PORT:-17443}
cleanup() {
  "$BIN" down --purge --name "$NAME" --data-dir "$DATA" >/dev/null 2>&1 || true
  rm -rf "$DATA"
}
trap cleanup EXIT

echo "machine: $(nproc) cores, $(uname -r), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)"
echo
root=$(mktemp -d "$DATA/root.XXXXXX")
mkdir -p "$root/bin" "$root/etc"
cp -L "$(command -v busybox)" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
ln -s busybox "$root/bin/sleep"
tar -C "$root" -cf "$DATA/busybox.tar" .
"$BIN" image import "$DATA/busybox.tar" --tag windlass.local/bench:1 --name "$NAME" --data-dir "$DATA" >/dev/null

"$BENCH" start --binary "$BIN" --name "$NAME" --data-dir "$DATA" --port "$PORT"
echo
"$BIN" server --detach --name "$NAME" --data-dir "$DATA" --api-port "$PORT" >/dev/null
kubectl --kubeconfig "$DATA/admin.kubeconfig" wait --for=condition=Ready node --all --timeout=60s >/dev/null
# Let the start settle: what is measured is the instance at rest.
sleep 10
"$BENCH" idle --run-dir "/run/windlass-$NAME"
echo
"$BENCH" pods --kubeconfig "$DATA/admin.kubeconfig" --image windlass.local/bench:1
echo
"$BENCH" api --kubeconfig "$DATA/admin.kubeconfig"
