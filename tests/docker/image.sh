#!/usr/bin/env bash
# Builds the image that `--postgres=docker` runs (KG_TEST_PG_IMAGE, by default pgvector/pgvector:pg17).
#   sudo tests/docker/image.sh
# Takes about half a minute.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/debian.sh"
from_debian "${KG_TEST_PG_IMAGE:-pgvector/pgvector:pg17}" postgresql-17-pgvector,gosu \
    $'ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]\nEXPOSE 5432' \
    --customize-hook="copy-in $here/entrypoint.sh /usr/local/bin" \
    --customize-hook='chmod 755 "$1/usr/local/bin/entrypoint.sh"'
