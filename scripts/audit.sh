#!/bin/sh
# Writes what the package is made of, and looks it up among known vulnerabilities.
#   dist/sbom.cdx.json   CycloneDX 1.5: all that the package and its extras install, with hashes
#   dist/audit.json      what is known to be wrong with it, where that could be asked
# Options go to `uv audit`, such as --ignore GHSA-…. Fails where a vulnerability is known. Where
# nobody can be asked it says so and goes on: nothing is known then, which is not "nothing is wrong".
set -eu
cd "$(dirname "$0")/.."
into=${AUDIT_INTO:-dist}
seconds=${AUDIT_SECONDS:-10}
mkdir -p "$into"
# Both commands are young; with this version they were tried.
export OLDEST_UV=0.13.9 UV_PROJECT_ENVIRONMENT=.venv

# The lock lies beside the project after every set-up, and is not committed.
[ -f uv.lock ] || scripts/uv.sh lock --quiet

scripts/uv.sh export --quiet --frozen --offline --no-default-groups --all-extras \
    --format cyclonedx1.5 --preview-features sbom-export --output-file "$into/sbom.cdx.json"
.venv/bin/python scripts/sbom.py components "$into/sbom.cdx.json"

# One try and not for long: a database that does not answer must not hold up the rest.
rm -f "$into/audit.json"
result=0
UV_HTTP_TIMEOUT=5 UV_HTTP_RETRIES=0 timeout "$seconds" scripts/uv.sh audit --quiet --frozen \
    --output-format json --preview-features audit-command,json-output \
    ${AUDIT_SERVICE:+--service-url "$AUDIT_SERVICE"} "$@" \
    >"$into/audit.out" 2>"$into/audit.log" || result=$?
if [ -s "$into/audit.out" ]; then
    mv "$into/audit.out" "$into/audit.json"
    rm -f "$into/audit.log"
    exec .venv/bin/python scripts/sbom.py vulnerabilities "$into/audit.json"
fi
rm -f "$into/audit.out"
# 124 is a time that has run out. What is no trouble with a connection is a mistake here.
if [ "$result" -ne 124 ] && ! grep -q 'Request failed\|error sending request' "$into/audit.log"; then
    cat "$into/audit.log" >&2
    exit 1
fi
rm -f "$into/audit.log"
echo "audit: NOT DONE: no database of vulnerabilities could be asked from here."
echo "audit: of the versions in $into/sbom.cdx.json nothing is known; run \`make audit\` where it can."
