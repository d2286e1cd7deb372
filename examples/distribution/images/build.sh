#!/bin/sh
# Builds the two images of the example and imports them. What was built before and has not changed is taken from the
# cache. Needs root (debootstrap makes device files) and a Debian host; the mirror is the one the host itself uses.
#
#   build.sh [--name INSTANCE] [--data-dir DIR] [--windlass PROGRAM] [--binary FILE] [--version VERSION]
#            [--only postgres|distribution] [--refresh] [--no-import]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
repo=$(CDPATH='' cd -- "$here/../../.." && pwd)
cache=${WINDLASS_IMAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/windlass/images}
windlass=${WINDLASS:-}
binary=${DISTRIBUTION_BINARY:-}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1)
pg=15
only='' refresh='' import=yes work='' name='' data_dir=''

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }

while [ $# -gt 0 ]; do
    case $1 in
        --name) name=$2; shift 2 ;;
        --data-dir) data_dir=$2; shift 2 ;;
        --windlass) windlass=$2; shift 2 ;;
        --binary) binary=$2; shift 2 ;;
        --version) version=$2; shift 2 ;;
        --only) only=$2; shift 2 ;;
        --refresh) refresh=yes; shift ;;
        --no-import) import=''; shift ;;
        *) die "unknown argument $1" ;;
    esac
done

[ "$(id -u)" = 0 ] || die "must run as root"
mkdir -p "$cache"
cleanup() { if [ -n "$work" ]; then rm -rf --one-file-system "$work"; fi; }
trap cleanup EXIT
trap 'exit 1' INT TERM HUP
# One builder at a time: the second finds the first one's work done.
exec 9>"$cache/lock"
flock 9

need() { # program package
    command -v "$1" >/dev/null 2>&1 && return
    say "installing $2"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$2" >&2 ||
        { apt-get update -q >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$2" >&2; }
}

# The mirror of the host's own release, from either format of apt's sources.
mirror() { # suite
    {
        cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
            awk -v suite="$1" '
                /^[[:space:]]*$/ { uri = ""; next }
                tolower($1) == "uris:" { uri = $2 }
                tolower($1) == "suites:" { for (i = 2; i <= NF; i++) if ($i == suite && uri != "") { print uri; exit } }'
        cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
            sed -n 's/^deb[[:space:]]\{1,\}\(\[[^]]*\][[:space:]]*\)\{0,1\}//p' |
            awk -v suite="$1" '$2 == suite { print $1; exit }'
    } | head -n 1
}

# A tarball that is the same for the same files.
pack() { # folder file
    tar --create --file "$2.part" --directory "$1" --numeric-owner --sort=name --mtime=@0 --xattrs \
        --one-file-system --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* .
    mv "$2.part" "$2"
}

new_work() {
    cleanup
    work=$(mktemp -d "$cache/build.XXXXXX")
    chmod 0755 "$work"
}

strip_debian() { # root
    rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/info/* "$1"/usr/share/locale/* \
        "$1"/usr/share/i18n "$1"/usr/share/lintian "$1"/usr/share/bug "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* \
        "$1"/var/cache/debconf/* "$1"/var/log/* "$1"/etc/ssl/private/* "$1"/etc/resolv.conf "$1"/etc/hostname
    # Not needed to serve: the JIT compiler (PostgreSQL does without), perl of the cluster tools, build helpers.
    rm -rf "$1"/usr/lib/*/libLLVM* "$1"/usr/lib/*/libz3* "$1"/usr/lib/llvm-* "$1"/usr/lib/postgresql/*/lib/bitcode \
        "$1"/usr/lib/postgresql/*/lib/llvmjit* "$1"/usr/share/perl* "$1"/usr/lib/*/perl* "$1"/usr/lib/*/libperl* \
        "$1"/usr/bin/perl*
}

build_postgres() {
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    uri=$(mirror "$suite")
    [ -n "$uri" ] || die "no apt source for $suite on this host"
    key=$(cat "$here/build.sh" "$here/postgres-entrypoint.sh" | { cat; echo "$suite $uri $pg"; } | sha256sum | cut -c1-16)
    postgres_tar=$cache/postgres-$pg-$key.tar
    if [ -e "$postgres_tar" ] && [ -z "$refresh" ]; then
        say "postgres:$pg: unchanged, from the cache"
        return
    fi
    need debootstrap debootstrap
    new_work
    root=$work/root
    say "postgres:$pg: Debian $suite from $uri (about a minute)"
    debootstrap --variant=minbase "$suite" "$root" "$uri" >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; die "debootstrap failed"; }
    say "postgres:$pg: installing PostgreSQL"
    # A user with a number that manifests can name (runAsUser), that of the well-known image; the package would take the next
    # free one.
    chroot "$root" sh -c 'groupadd --system --gid 999 postgres && useradd --system --uid 999 --gid postgres \
        --home-dir /var/lib/postgresql --no-create-home --shell /bin/bash postgres' >>"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; die "cannot make the user postgres"; }
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 0755 "$root/usr/sbin/policy-rc.d"
    mkdir -p "$root/etc/postgresql-common" "$root/etc/dpkg/dpkg.cfg.d"
    echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.conf"
    printf 'path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n' \
        >"$root/etc/dpkg/dpkg.cfg.d/small"
    echo 'force-unsafe-io' >>"$root/etc/dpkg/dpkg.cfg.d/small"
    chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C \
        apt-get install -y -q --no-install-recommends "postgresql-$pg" >>"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; die "Debian $suite gave no postgresql-$pg"; }
    strip_debian "$root"
    rm -f "$root/usr/sbin/policy-rc.d" "$root/etc/dpkg/dpkg.cfg.d/small"
    for program in "$root"/usr/lib/postgresql/$pg/bin/*; do
        ln -sf "/usr/lib/postgresql/$pg/bin/${program##*/}" "$root/usr/local/bin/${program##*/}"
    done
    install -m 0755 "$here/postgres-entrypoint.sh" "$root/usr/local/bin/postgres-entrypoint"
    : >"$root/etc/resolv.conf"
    say "postgres:$pg: packing"
    pack "$root" "$postgres_tar"
    cleanup
    # Older builds are of no more use.
    find "$cache" -maxdepth 1 -name "postgres-$pg-*.tar" ! -path "$postgres_tar" -delete
}

busybox_static() { # into
    if [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1; then
        cp /bin/busybox "$1"
        return
    fi
    say "distribution:$version: fetching busybox-static"
    (cd "$work" && apt-get download -q busybox-static >&2 && dpkg-deb -x busybox-static_*.deb busybox)
    cp "$work/busybox/bin/busybox" "$1" 2>/dev/null || cp "$work/busybox/usr/bin/busybox" "$1"
}

build_distribution() {
    if [ -z "$binary" ]; then
        say "distribution:$version: compiling"
        (cd "$repo" && cargo build --release --quiet -p distribution)
        binary=${CARGO_TARGET_DIR:-$repo/target}/release/distribution
    fi
    [ -x "$binary" ] || die "no program at $binary"
    key=$(cat "$here/build.sh" "$binary" | sha256sum | cut -c1-16)
    distribution_tar=$cache/distribution-$key.tar
    if [ -e "$distribution_tar" ] && [ -z "$refresh" ]; then
        say "distribution:$version: unchanged, from the cache"
        return
    fi
    new_work
    root=$work/root
    say "distribution:$version: packing"
    mkdir -p "$root/bin" "$root/usr/local/bin" "$root/etc/ssl/certs" "$root/tmp" "$root/proc" "$root/sys" "$root/dev" \
        "$root/run" "$root/var/tmp" "$root/home/distribution"
    chmod 1777 "$root/tmp" "$root/var/tmp"
    busybox_static "$root/bin/busybox"
    for applet in $("$root/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    install -m 0755 "$binary" "$root/usr/local/bin/distribution"
    # What it is linked with, and what glibc loads by itself to look up names, at the same paths.
    libs=$(ldd "$binary" | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p')
    libc_dir=$(dirname "$(printf '%s\n' "$libs" | grep '/libc\.so')")
    for lib in $libs "$libc_dir"/libnss_dns.so.2 "$libc_dir"/libnss_files.so.2 "$libc_dir"/libresolv.so.2; do
        [ -e "$lib" ] || continue
        mkdir -p "$root$(dirname "$lib")"
        cp -L "$lib" "$root$lib"
    done
    if [ -e /etc/ssl/certs/ca-certificates.crt ]; then cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"; fi
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
    printf 'root:x:0:0:root:/:/bin/sh\ndistribution:x:65532:65532::/home/distribution:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\ndistribution:x:65532:\n' >"$root/etc/group"
    chown -R 0:0 "$root"
    chown 65532:65532 "$root/home/distribution"
    pack "$root" "$distribution_tar"
    cleanup
    find "$cache" -maxdepth 1 -name 'distribution-*.tar' ! -path "$distribution_tar" -mtime +7 -delete
}

windlass() {
    if [ -z "$windlass" ]; then
        for candidate in "$repo/target/release/windlass" "$repo/target/debug/windlass"; do
            if [ -z "$windlass" ] && [ -x "$candidate" ]; then windlass=$candidate; fi
        done
        [ -n "$windlass" ] || windlass=windlass
    fi
    set -- image "$@"
    if [ -n "$data_dir" ]; then set -- --data-dir "$data_dir" "$@"; fi
    if [ -n "$name" ]; then set -- --name "$name" "$@"; fi
    "$windlass" "$@"
}

if [ "$only" != distribution ]; then
    build_postgres
    if [ -n "$import" ]; then
        say "postgres:$pg: importing"
        windlass import "$postgres_tar" --tag "windlass.local/postgres:$pg" --entrypoint postgres-entrypoint --cmd postgres \
            --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --env LANG=C.UTF-8 \
            --env PGDATA=/var/lib/postgresql/data --expose 5432/tcp
    else
        echo "$postgres_tar"
    fi
fi
if [ "$only" != postgres ]; then
    build_distribution
    if [ -n "$import" ]; then
        say "distribution:$version: importing"
        windlass import "$distribution_tar" --tag "windlass.local/distribution:$version" --entrypoint distribution \
            --env PATH=/usr/local/bin:/bin --env "DISTRIBUTION_VERSION=$version" --user 65532:65532 --expose 8080/tcp \
            --label "org.opencontainers.image.version=$version"
    else
        echo "$distribution_tar"
    fi
fi
say "done"
