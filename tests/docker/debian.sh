# Sourced by the scripts beside it: an image of Debian 13's packages alone, for machines that reach no container registry.
#   from_debian IMAGE PACKAGES CHANGE [OPTION]...
# CHANGE is one of `docker import`, OPTIONs are mmdebstrap's. Does nothing where the image is there already. Needs
# docker and mmdebstrap (with debian-archive-keyring).
from_debian() {
    local image=$1 packages=$2 change=$3 mirror folder
    shift 3
    if docker image inspect "$image" >/dev/null 2>&1; then
        echo "$image is there already"
        return
    fi
    # The mirror that apt is set up with, in either form of its lists.
    mirror=$({ cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true; } |
        sed -nE 's/^(URIs: |deb (\[[^]]*\] )?)(https?:[^ ]+).*/\3/p' | grep -v security | head -n 1)
    folder=$(mktemp -d)
    # shellcheck disable=SC2064  # the folder of now
    trap "rm -rf '$folder'" EXIT
    mmdebstrap --quiet --variant=minbase --include="$packages" "$@" \
        trixie "$folder/root.tar" "${mirror:?no Debian mirror in the lists of apt}"
    docker import --change "$change" "$folder/root.tar" "$image"
}
