#!/usr/bin/env bash
# Sets up, then runs every check. Extra arguments go to pytest.
set -eu
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements-dev.txt
cd "$project"
"$PYTHON" -m ruff format --check .
"$PYTHON" -m ruff check .
# One thread for each of two test processes is faster than two threads for one.
OMP_NUM_THREADS=1 exec "$PYTHON" -m pytest -n 2 "$@"
