#!/bin/sh
# Runs uv, with nothing but Python >= 3.11 and a package index: scripts/uv.sh sync, …
# Where no recent uv is on PATH, one is installed into .tools/uv. pip's settings (index,
# certificate) are handed on, because uv does not read them itself.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
oldest_uv=${OLDEST_UV:-0.6.0} # older ones do not know all that pyproject.toml asks of them

say() { printf 'set-up: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

# Prints the path of a Python that is new enough.
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
    fail "Python 3.11 or newer is needed;${seen:- no python3 on PATH;} set PYTHON=/path/to/python3.11 to name one"
}

# pip_setting NAME: what pip would use, from its environment or its configuration files.
pip_setting() {
    "$python" -m pip config list 2>/dev/null |
        sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | tail -n 1
}

# hand_on NAME SETTING: exports NAME with pip's setting, unless NAME is set already.
hand_on() {
    eval "current=\${$1:-}"
    [ -z "$current" ] || return 0
    value=$(pip_setting "$2")
    [ -z "$value" ] || export "$1=$value"
}

# recent UV: whether that uv runs and is not older than $oldest_uv.
recent() {
    version=$("$1" --version 2>/dev/null | cut -d ' ' -f 2) && [ -n "$version" ] || return 1
    "$python" - "$version" "$oldest_uv" <<'END'
import re, sys
found, oldest = ([int(n) for n in re.findall(r"\d+", word)[:3]] for word in sys.argv[1:])
sys.exit(found < oldest)
END
}

install_uv() {
    say "no uv >= $oldest_uv on PATH: installing it into .tools/uv"
    rm -rf "$root/.tools/uv"
    if "$python" -m venv "$root/.tools/uv" >/dev/null 2>&1; then
        "$root/.tools/uv/bin/python" -m pip install --quiet uv >&2
    elif "$python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$root/.tools/uv"
        "$python" -m pip install --quiet --target "$root/.tools/uv" uv >&2
    else
        fail "$python has neither venv nor pip (on Debian and Ubuntu: apt install python3-venv)"
    fi
}

# Tells what to do after uv or pip could not fetch something.
explain() {
    say "that did not work; the lines above say why. If they speak of a failed fetch or"
    say "connection, the package index cannot be reached: name a mirror with PIP_INDEX_URL or"
    say "UV_DEFAULT_INDEX, a proxy with HTTPS_PROXY, a company certificate with SSL_CERT_FILE."
    say "The same command, given again, goes on where it stopped."
    exit 1
}

python=$(find_python)
hand_on UV_DEFAULT_INDEX index-url
hand_on UV_INDEX extra-index-url
hand_on SSL_CERT_FILE cert
export UV_PYTHON="${UV_PYTHON:-$python}" UV_PYTHON_DOWNLOADS=never
unset VIRTUAL_ENV

if recent uv; then
    uv=uv
else
    uv="$root/.tools/uv/bin/uv"
    recent "$uv" || install_uv || explain
fi
"$uv" "$@" || explain
