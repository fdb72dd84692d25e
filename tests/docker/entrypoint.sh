#!/bin/bash
# What the official image's entry script promises: a cluster for POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB, then
# the server as the container's only process.
set -euo pipefail
: "${POSTGRES_PASSWORD:?is needed}"
user=${POSTGRES_USER:-postgres} database=${POSTGRES_DB:-${POSTGRES_USER:-postgres}}
export PGDATA=/var/lib/postgresql/data PATH="$(echo /usr/lib/postgresql/*/bin):$PATH"

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    install -d -o postgres -g postgres -m 700 "$PGDATA"
    install -d -o postgres -g postgres /var/run/postgresql
    password=$(gosu postgres mktemp)
    printf '%s\n' "$POSTGRES_PASSWORD" >"$password"
    gosu postgres initdb --username="$user" --pwfile="$password" --encoding=UTF8 --locale=C.UTF-8 \
        --auth-host=scram-sha-256 --auth-local=trust --no-sync >/dev/null
    rm "$password"
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    if [ "$database" != postgres ]; then
        echo "CREATE DATABASE \"$database\";" | gosu postgres postgres --single -j -D "$PGDATA" postgres >/dev/null
    fi
fi
# fsync is for those who want to keep something.
exec gosu postgres postgres -D "$PGDATA" -c listen_addresses='*' -c fsync=off "$@"
