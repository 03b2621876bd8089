#!/bin/sh
# Sets the project up in .venv:
#   scripts/setup.sh demo    what `make demo` needs
#   scripts/setup.sh test    what the tests need
#   scripts/setup.sh dev     all that developing needs, and nothing else
# Nothing is installed outside the repository, but for uv's download cache.
set -eu
cd "$(dirname "$0")/.."
export UV_PROJECT_ENVIRONMENT=.venv
# Where Python may not write bytecode, every start would compile LangGraph anew: a second each.
[ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || export UV_COMPILE_BYTECODE=1

case ${1:-} in
    demo | test)
        scripts/uv.sh sync --no-default-groups --group "$1" --group weights --inexact
        ;;
    dev)
        scripts/uv.sh sync
        ;;
    *)
        echo "usage: scripts/setup.sh demo|test|dev" >&2
        exit 2
        ;;
esac
# The stamps that the Makefile looks at: who has more has less as well.
case $1 in
    demo) touch .venv/.ready-demo ;;
    test) touch .venv/.ready-demo .venv/.ready-test ;;
    dev) touch .venv/.ready-demo .venv/.ready-test .venv/.ready-dev ;;
esac
