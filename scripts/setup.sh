#!/bin/sh
# Sets the project up in .venv:
#   scripts/setup.sh demo    what `make demo` needs
#   scripts/setup.sh dev     all that developing and testing needs
# Nothing is installed outside the repository, but for uv's download cache.
set -eu
cd "$(dirname "$0")/.."
export UV_PROJECT_ENVIRONMENT=.venv
# Where PYTHONDONTWRITEBYTECODE is set, every start would compile LangGraph anew: a second each.
export UV_COMPILE_BYTECODE=1

case ${1:-} in
    demo)
        scripts/uv.sh sync --no-default-groups --group demo --group weights --inexact
        touch .venv/.ready-demo
        ;;
    dev)
        scripts/uv.sh sync
        touch .venv/.ready-demo .venv/.ready-dev
        ;;
    *)
        echo "usage: scripts/setup.sh demo|dev" >&2
        exit 2
        ;;
esac
