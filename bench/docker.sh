#!/usr/bin/env bash
# Measures the Docker face beside Debian's docker.io and podman, where they are installed, all in one run: in a network namespace
# of its own, with folders of its own, everything taken down at the end. As root.
#   apt-get install docker.io podman docker-registry      brings the peers
set -euo pipefail
cd "$(dirname "$0")/.."
TARGET=${CARGO_TARGET_DIR:-$PWD/target}
if [ -z "${BENCH_INSIDE:-}" ]; then
  cargo build --release --locked -q -p windlass -p bench
  exec env BENCH_INSIDE=1 CARGO_TARGET_DIR="$TARGET" unshare --net --mount "$0" "$@"
fi
BIN=$TARGET/release/windlass
BENCH=$TARGET/release/bench
NAME=bench-docker
DATA=$(mktemp -d /var/tmp/windlass-bench.XXXXXX)
PIDS=()
cleanup() {
  "$BIN" down --purge --name "$NAME" --data-dir "$DATA/windlass" >/dev/null 2>&1 || true
  [ -z "${PODMAN:-}" ] || $PODMAN rm -fa >/dev/null 2>&1 || true
  for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
  grep -o " $DATA[^ ]*" /proc/mounts | sort -r | xargs -r umount -l 2>/dev/null || true
  rm -rf "$DATA"
}
trap cleanup EXIT
ip link set lo up

# until COMMAND...: waits for it, ten seconds at most.
until_ok() {
  for _ in $(seq 200); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.05
  done
  echo "bench: $* does not succeed" >&2
  return 1
}

echo "machine: $(nproc) cores, $(uname -r), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)"
echo "load before: $(cut -d' ' -f1-3 /proc/loadavg)"

# The image: a shell with its tools, and the server of the published port with the libraries it needs.
root=$DATA/root
mkdir -p "$root/bin" "$root/etc" "$root/tmp"
cp -L "$(command -v busybox)" "$root/bin/busybox"
for tool in sh sleep true cat; do ln -s busybox "$root/bin/$tool"; done
cp "$BENCH" "$root/bench"
ldd "$BENCH" | grep -o '/[^ ]*' | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
tar -C "$root" -cf "$DATA/image.tar" .

ENGINES=()
"$BIN" server --detach --name "$NAME" --data-dir "$DATA/windlass" --api-port 17443 >/dev/null
SOCKET=/run/windlass-$NAME/docker.sock
until_ok docker -H "unix://$SOCKET" version
ENGINES+=("windlass=docker -H unix://$SOCKET")
echo "windlass: $("$BIN" version | head -n 1)"

if command -v dockerd >/dev/null; then
  mkdir -p "$DATA/docker"
  dockerd --data-root "$DATA/docker/data" --exec-root "$DATA/docker/exec" --pidfile "$DATA/docker/pid" \
    --host "unix://$DATA/docker.sock" --insecure-registry 127.0.0.1:15000 >"$DATA/dockerd.log" 2>&1 &
  PIDS+=($!)
  if until_ok docker -H "unix://$DATA/docker.sock" version; then
    ENGINES+=("docker=docker -H unix://$DATA/docker.sock")
    echo "docker: $(dockerd --version)"
  else
    tail -n 5 "$DATA/dockerd.log" >&2
  fi
else
  echo "docker: not measured, dockerd is not installed"
fi
PODMAN=
if command -v podman >/dev/null; then
  PODMAN="podman --root $DATA/podman/root --runroot $DATA/podman/run --tmpdir $DATA/podman/tmp"
  ENGINES+=("podman=$PODMAN")
  echo "podman: $(podman --version)"
else
  echo "podman: not measured, it is not installed"
fi

# each COMMAND...: runs it with each engine's command before it.
each() {
  local engine
  for engine in "${ENGINES[@]}"; do
    ${engine#*=} "$@" >/dev/null 2>&1
  done
}
each import "$DATA/image.tar" windlass.local/bench:1
# An engine that cannot run anything here is left out, and says why.
able=()
for engine in "${ENGINES[@]}"; do
  if problem=$(${engine#*=} run --rm windlass.local/bench:1 true 2>&1); then
    able+=("$engine")
  else
    echo "${engine%%=*}: not measured: $(echo "$problem" | tail -n 1)"
  fi
done
ENGINES=("${able[@]}")

# Ten layers of five thousand files of 10 KB, pushed to a registry on loopback by the first engine.
PULL=()
if command -v docker-registry >/dev/null; then
  mkdir -p "$DATA/registry" "$DATA/layers"
  printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:15000"}\n' "$DATA/registry" >"$DATA/registry.yml"
  docker-registry serve "$DATA/registry.yml" >"$DATA/registry.log" 2>&1 &
  PIDS+=($!)
  echo "FROM scratch" >"$DATA/layers/Dockerfile"
  for layer in $(seq 10); do
    mkdir "$DATA/layers/$layer"
    # Text that compresses as programs and libraries do, by about a half.
    head -c 25000000 /dev/urandom | base64 -w 0 | head -c 50000000 | split -a 4 -d -b 10000 - "$DATA/layers/$layer/f"
    echo "COPY $layer /$layer" >>"$DATA/layers/Dockerfile"
  done
  first=${ENGINES[0]#*=}
  DOCKER_BUILDKIT=0 $first build -q -t 127.0.0.1:15000/layers:1 "$DATA/layers" >/dev/null 2>&1
  $first push -q 127.0.0.1:15000/layers:1 >/dev/null
  rm -rf "$DATA/layers"
  # What it built itself it would not have to fetch.
  $first rmi -f 127.0.0.1:15000/layers:1 >/dev/null 2>&1
  $first builder prune -af >/dev/null 2>&1
  # Docker and Windlass take a registry on loopback for one without TLS; Podman has to be told.
  printf '[[registry]]\nlocation = "127.0.0.1:15000"\ninsecure = true\n' >"$DATA/registries.conf"
  export CONTAINERS_REGISTRIES_CONF=$DATA/registries.conf
  PULL=(--pull 127.0.0.1:15000/layers:1)
else
  echo "pull: not measured, docker-registry is not installed"
fi

mkdir "$DATA/build"
echo "FROM windlass.local/bench:1" >"$DATA/build/Dockerfile"
for step in $(seq 5); do
  printf 'RUN echo %s > /made-%s\nCOPY file /copied-%s\n' "$step" "$step" "$step" >>"$DATA/build/Dockerfile"
done
echo content >"$DATA/build/file"

arguments=()
for engine in "${ENGINES[@]}"; do arguments+=(--engine "$engine"); done
echo
"$BENCH" docker "${arguments[@]}" --image windlass.local/bench:1 "${PULL[@]}" --build "$DATA/build"
