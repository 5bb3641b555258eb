#!/usr/bin/env bash
# Runs an entry script on a machine that is lent for minutes, and keeps what it has measured:
#
#   bash experiments/within.sh 480 kept main_TOD.py --config cifar10 --sampling TOD --auxiliary NONE
#
# Every 20 seconds, kept/results.tar.xz has the results so far (experiments/pack.py). After 480
# seconds the run saves and ends; kept/state/00, … hold its folder then, without pictures. Where
# these lie, the same command, also on another machine, goes on with it.
set -euo pipefail

if (($# < 3)); then
    echo "usage: bash experiments/within.sh SECONDS KEPT main_TOD.py|main_LL4AL.py [ARGUMENT ...]" >&2
    exit 2
fi
seconds=$1 kept=$2
shift 2
project=$(cd "$(dirname "$0")/.." && pwd)
results=$(mktemp -d)/results
mkdir -p "$kept" "$results"

take_new() { # a state that is there as `new` is whole
    [[ -d $kept/new ]] || return 0
    rm -rf "$kept/state"
    mv "$kept/new" "$kept/state"
}

take_new
if [[ -d $kept/state ]]; then
    cat "$kept"/state/* | tar -xf - -C "$results"
fi

pack() {
    [[ -n $(find "$results" -name results.csv -not -path '*/.locks/*') ]] || return 0
    python "$project/experiments/pack.py" "$results" "$kept/results.tar.xz"
}

timeout --signal=TERM --kill-after=60 "$seconds" python "$project/$1" "${@:2}" --output-dir "$results" &
run=$! waited=0 status=0
trap 'kill "$run" 2>/dev/null || true' EXIT
while kill -0 "$run" 2>/dev/null; do
    sleep 1
    ((++waited % 20)) || pack >/dev/null || true
done
wait "$run" || status=$?
pack || true # says why; the state is what counts
# The former state stays until the new one is whole.
rm -rf "$kept/partial"
mkdir "$kept/partial"
tar -cf - -C "$results" --exclude='*.png' --exclude='.locks' . | split -d -b 15M - "$kept/partial/"
mv "$kept/partial" "$kept/new"
take_new
exit $status
