#!/bin/sh
# Sets the project up in .venv, with nothing but Python >= 3.11 and a package index:
#   scripts/setup.sh demo    what `make demo` needs
#   scripts/setup.sh dev     all that developing and testing needs
# Nothing is installed outside the repository, but for uv's download cache in HOME.
# pip's settings (index, certificate, proxy) are handed on to uv, which does not read them itself.
set -eu
cd "$(dirname "$0")/.."

profile=${1:?usage: setup.sh demo|dev}
oldest_uv=0.6.0 # groups with extras of the project itself, and lock files of today's form

say() { printf 'set-up: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

find_python() {
    seen=""
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.14 python3.11 python; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
        seen="$seen $candidate is $version;"
    done
    fail "Python 3.11 or newer is needed and none was found (${seen:- no python3 on PATH;} set PYTHON=/path/to/python3.11 to name one)"
}

# pip_setting NAME: what pip would use, from its environment or its configuration files.
pip_setting() {
    "$python" -m pip config list 2>/dev/null |
        sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | tail -n 1
}

share_pip_settings() {
    if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
        index=$(pip_setting index-url)
        [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    fi
    if [ -z "${UV_INDEX:-}${UV_EXTRA_INDEX_URL:-}" ]; then
        index=$(pip_setting extra-index-url)
        [ -z "$index" ] || export UV_INDEX="$index"
    fi
    if [ -z "${SSL_CERT_FILE:-}" ]; then
        certificate=$(pip_setting cert)
        [ -z "$certificate" ] || export SSL_CERT_FILE="$certificate"
    fi
}

# recent UV: whether that uv runs and is not older than $oldest_uv.
recent() {
    version=$("$1" --version 2>/dev/null | cut -d ' ' -f 2) || return 1
    "$python" - "$version" "$oldest_uv" <<'END'
import re, sys
found, oldest = ([int(n) for n in re.findall(r"\d+", word)[:3]] for word in sys.argv[1:])
sys.exit(found < oldest)
END
}

# Prints the path of a uv that will do, installing one into .tools/uv where there is none.
find_uv() {
    for candidate in uv .tools/uv/bin/uv; do
        if recent "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    say "no uv >= $oldest_uv on PATH: installing it into .tools/uv"
    rm -rf .tools/uv
    if "$python" -m venv .tools/uv >/dev/null 2>&1; then
        .tools/uv/bin/python -m pip install --quiet uv >&2 || fail_index
    elif "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet --target .tools/uv uv >&2 || fail_index
    else
        fail "this Python has neither venv nor pip (on Debian and Ubuntu: apt install python3-venv)"
    fi
    echo .tools/uv/bin/uv
}

fail_index() {
    say "the packages could not be installed; the lines above say why."
    say "If they speak of a failed fetch or connection, the package index cannot be reached:"
    say "  a mirror is named with PIP_INDEX_URL or UV_DEFAULT_INDEX, a proxy with HTTPS_PROXY,"
    say "  a company certificate with SSL_CERT_FILE; behind a slow line, run the same command again."
    exit 1
}

case $profile in
    demo) selection="--no-default-groups --group demo --group weights --inexact" ;;
    dev) selection="" ;;
    *) fail "unknown profile '$profile': demo or dev" ;;
esac

python=$(find_python)
share_pip_settings
uv=$(find_uv)
unset VIRTUAL_ENV
export UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv
# shellcheck disable=SC2086 # several words on purpose
"$uv" sync --python "$python" $selection || fail_index
touch .venv/.ready-demo
[ "$profile" = demo ] || touch .venv/.ready-dev
