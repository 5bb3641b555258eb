#!/usr/bin/env bash
# Sets up, then runs every check. Extra arguments go to pytest.
set -eu
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements-dev.txt
cd "$project"

has_browser() {
    command -v chromium || command -v chromium-browser || command -v google-chrome || "$PYTHON" -c '
from pathlib import Path
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    raise SystemExit(not Path(playwright.chromium.executable_path).exists())'
}

install_browser() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing the package chromium (once), in which the report is tested" >&2
        apt-get update -qq && apt-get install -qq --no-install-recommends chromium && return
    fi
    echo "downloading a Chromium (once), in which the report is tested" >&2
    "$PYTHON" -m playwright install chromium
}

# Where none can be had, the report's tests fail and say so; all others run.
has_browser >/dev/null || DEBIAN_FRONTEND=noninteractive install_browser >/dev/null || true
"$PYTHON" -m ruff format --check .
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest -n 2 "$@"
