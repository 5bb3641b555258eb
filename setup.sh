# Sourced by run.sh and test.sh. Sets PYTHON to one that has what a requirements file asks for: the
# active Python where it does, else .venv beside this file, built or completed first.
#   . setup.sh requirements.txt

# pip catches Ctrl-C, and what it has not found would be installed.
trap 'echo interrupted >&2; exit 130' INT

project=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

is_new_enough() { # PYTHON
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

has_requirements() { # PYTHON REQUIREMENTS
    # Without an index, pip can do nothing but agree or refuse; --dry-run installs nothing.
    is_new_enough "$1" &&
        PIP_BREAK_SYSTEM_PACKAGES=1 "$1" -m pip install --quiet --disable-pip-version-check \
            --dry-run --no-index -r "$2" >/dev/null 2>&1 &&
        # Builds of the two that do not fit each other show only here.
        "$1" -c 'import torchvision' 2>/dev/null
}

find_python() {
    local name
    for name in python3 python python3.14 python3.13 python3.12 python3.11 python3.10; do
        if is_new_enough "$name"; then
            echo "$name"
            return
        fi
    done
    echo "Python 3.10 or newer is needed, and none was found" >&2
    return 2
}

make_venv() { # PYTHON VENV
    "$1" -m venv "$2" >/dev/null 2>&1 && return
    # Some distributions ship Python without ensurepip; pip can then do its part from outside.
    rm -rf "$2"
    if "$1" -m venv --without-pip "$2" >/dev/null 2>&1 && "$1" -m pip --version >/dev/null 2>&1; then
        "$1" -m pip --python "$2/bin/python" install --quiet pip && return
    fi
    rm -rf "$2"
    echo "$1 can make no virtual environment: install its venv module (python3-venv) or pip" >&2
    return 2
}

set_up() { # REQUIREMENTS
    local venv="$project/.venv" active
    for active in python python3; do
        if has_requirements "$active" "$1"; then
            PYTHON=$active
            return
        fi
    done
    PYTHON=$venv/bin/python
    has_requirements "$PYTHON" "$1" && return
    if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        active=$(find_python) || return
        echo "building $venv (once, a few minutes)" >&2
        make_venv "$active" "$venv" || return
    fi
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$1" || return
    if ! has_requirements "$PYTHON" "$1"; then
        echo "$venv lacks what $1 asks for even after its installation; remove $venv and try again" >&2
        return 2
    fi
}

set_up "$project/$1" || exit
