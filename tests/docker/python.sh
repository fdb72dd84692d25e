#!/usr/bin/env bash
# Builds the image that deployments/docker/Dockerfile is built on in the tests (BASE=kg-test/python:trixie): Debian's
# Python with venv, in place of the registry's python:3.13-slim.
set -euo pipefail
. "$(dirname "$0")/debian.sh"
from_debian kg-test/python:trixie python3-venv,ca-certificates 'CMD ["python3"]'
