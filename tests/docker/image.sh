#!/usr/bin/env bash
# Builds the image that `--postgres=docker` runs (KG_TEST_PG_IMAGE, by default pgvector/pgvector:pg17) from Debian's
# packages alone, for machines that reach no container registry. Does nothing where the image is there already.
#   sudo tests/docker/image.sh
# Needs docker and mmdebstrap (with debian-archive-keyring); takes about half a minute.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
image=${KG_TEST_PG_IMAGE:-pgvector/pgvector:pg17}
if docker image inspect "$image" >/dev/null 2>&1; then
    echo "$image is there already"
    exit 0
fi
# The mirror that apt is set up with, in either form of its lists.
mirror=$({ cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true; } |
    sed -nE 's/^(URIs: |deb (\[[^]]*\] )?)(https?:[^ ]+).*/\3/p' | grep -v security | head -n 1)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mmdebstrap --quiet --variant=minbase --include=postgresql-17-pgvector,gosu \
    --customize-hook="copy-in $here/entrypoint.sh /usr/local/bin" \
    --customize-hook='chmod 755 "$1/usr/local/bin/entrypoint.sh"' \
    trixie "$folder/root.tar" "${mirror:?no Debian mirror in the lists of apt}"
docker import --change 'ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]' --change 'EXPOSE 5432' "$folder/root.tar" "$image"
