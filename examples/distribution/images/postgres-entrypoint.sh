#!/bin/sh
# Makes the cluster on the first start and runs PostgreSQL as the user postgres. Takes the variables of the well-known
# image: POSTGRES_USER, POSTGRES_PASSWORD (required), POSTGRES_DB, PGDATA.
set -eu

: "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"
: "${PGDATA:=/var/lib/postgresql/data}"
: "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD}"
run=/run/postgresql

as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
    else
        "$@"
    fi
}

if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" "$run"
    # A cluster that an image of before made has the number that the user had there.
    if [ "$(stat -c %u "$PGDATA")" != "$(id -u postgres)" ]; then chown -R postgres:postgres "$PGDATA"; fi
    chown postgres:postgres "$run"
else
    mkdir -p "$PGDATA"
fi
chmod 0700 "$PGDATA"

# The cluster is made in a folder beside its place and moved there, PG_VERSION last: what was cut short has none.
new=$PGDATA/windlass-new
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ ! -d "$new" ] && [ -n "$(find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found)" ]; then
        echo "postgres: $PGDATA is not empty and holds no cluster" >&2
        exit 1
    fi
    echo "postgres: making a cluster in $PGDATA" >&2
    find "$PGDATA" -mindepth 1 ! -path "$PGDATA/lost+found*" -delete
    as_postgres mkdir -m 0700 "$new"
    secret=$(mktemp)
    printf '%s\n' "$POSTGRES_PASSWORD" >"$secret"
    if [ "$(id -u)" = 0 ]; then chown postgres "$secret"; fi
    as_postgres initdb --pgdata="$new" --username="$POSTGRES_USER" --pwfile="$secret" --encoding=UTF8 \
        --locale=C.UTF-8 --auth-local=trust --auth-host=scram-sha-256 --no-instructions >/dev/null
    rm -f "$secret"
    echo "host all all all scram-sha-256" >>"$new/pg_hba.conf"
    if [ "$POSTGRES_DB" != postgres ]; then
        name=$(printf '%s' "$POSTGRES_DB" | sed 's/"/""/g')
        printf 'create database "%s";\n' "$name" | as_postgres postgres --single -D "$new" -j postgres >/dev/null
    fi
    find "$new" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv -t "$PGDATA" {} +
    sync
    mv "$new/PG_VERSION" "$PGDATA/"
    sync
fi
rm -rf "$new"

if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then
    set -- postgres "$@"
fi
if [ "$1" != postgres ]; then
    exec "$@"
fi
shift
set -- postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories="$run" "$@"
if [ "$(id -u)" = 0 ]; then
    set -- setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
fi
# One simple command, so that $! is the server and no shell between.
"$@" &
server=$!
# SIGTERM alone would wait for every client to leave; SIGINT is the fast shutdown: clients are told, data is safe.
trap 'kill -INT "$server" 2>/dev/null' TERM INT
status=0
while kill -0 "$server" 2>/dev/null; do
    status=0
    wait "$server" || status=$?
done
exit "$status"
