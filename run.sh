#!/usr/bin/env bash
# The paper's CIFAR-10 experiment: TOD sampling, COD loss. Extra arguments go to main_TOD.py.
set -eu
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt
exec "$PYTHON" "$project/main_TOD.py" --config cifar10 --sampling TOD --auxiliary TOD "$@"
