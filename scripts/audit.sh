#!/bin/sh
# Looks the dependencies up among known vulnerabilities, and writes what the package is made of.
#   dist/sbom.cdx.json   CycloneDX 1.5: every package that a user may install, with its hashes
#   dist/audit.json      what is known to be wrong with them, where that could be asked
# Fails where a vulnerability is known. Where nobody can be asked, it says so and goes on: then
# nothing is known, which is not the same as that nothing is wrong.
set -eu
cd "$(dirname "$0")/.."
mkdir -p dist
# `uv audit` and the export are young; with this version they were tried.
export OLDEST_UV=0.13.9 UV_PROJECT_ENVIRONMENT=.venv

# The lock lies beside the project after every set-up, and is not committed.
[ -f uv.lock ] || scripts/uv.sh lock --quiet

scripts/uv.sh export --quiet --frozen --offline --no-default-groups --all-extras \
    --format cyclonedx1.5 --preview-features sbom-export --output-file dist/sbom.cdx.json
.venv/bin/python scripts/sbom.py dist/sbom.cdx.json

seconds=${AUDIT_SECONDS:-15}
rm -f dist/audit.json
result=0
# One try, and not for long: a database that does not answer must not hold up the rest.
UV_HTTP_TIMEOUT=5 UV_HTTP_RETRIES=0 timeout "$seconds" scripts/uv.sh audit --quiet --frozen \
    --output-format json --preview-features audit-command,json-output \
    ${AUDIT_SERVICE:+--service-url "$AUDIT_SERVICE"} \
    >dist/audit.tmp 2>dist/audit.log || result=$?
if [ -s dist/audit.tmp ]; then
    mv dist/audit.tmp dist/audit.json
    rm -f dist/audit.log
    .venv/bin/python scripts/sbom.py --vulnerabilities dist/audit.json
    exit
fi
rm -f dist/audit.tmp
# 124 is a time that has run out; the rest tells of a connection, or it is a mistake of this script.
if [ "$result" -ne 124 ] && ! grep -Eqi 'request|connect|dns|timed? ?out|resolv' dist/audit.log; then
    cat dist/audit.log >&2
    exit 1
fi
rm -f dist/audit.log
echo "audit: NOT DONE: no database of vulnerabilities could be asked from here within $seconds s."
echo "audit: nothing is known about the versions in dist/sbom.cdx.json; run \`make audit\` elsewhere."
