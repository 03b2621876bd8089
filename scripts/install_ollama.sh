#!/bin/sh
# Installs the official Ollama server into .tools/ollama with the Go client, for the live tests.
# Without Go, or where a header cannot be had, it says so and succeeds: those tests then skip.
#
# Go's module archives leave out every folder named `vendor`, and with them three headers of
# llama.cpp that the module itself carries there. They come from where they are packaged:
# Debian (nlohmann-json3-dev, libstb-dev) and the source distribution of miniaudio.
set -eu
cd "$(dirname "$0")/.."

version=${OLLAMA_VERSION:-v0.12.11} # the first with log-probabilities; later ones need more than Go
miniaudio=1.71
target=$PWD/.tools/ollama
headers=$target/include

skip() {
    echo "ollama: not installed: $*"
    exit 0
}

# missing HEADER: whether the C++ compiler does not find it.
missing() {
    ! echo "#include <$1>" | ${CXX:-c++} ${CGO_CPPFLAGS:-} "-I$headers" -E -x c++ - >/dev/null 2>&1
}

# debian PACKAGE FOLDER: takes that folder of /usr/include out of the package, without root.
debian() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    if ! (cd "$work" && apt-get download -q "$1" >/dev/null 2>&1); then
        # No package lists on this machine yet: fetch them into our own folder.
        mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
        apt="-o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User="
        # shellcheck disable=SC2086 # several words on purpose
        (cd "$work" && apt-get $apt update -q && apt-get $apt download -q "$1") >/dev/null 2>&1 || return 1
    fi
    dpkg-deb -x "$work/$1"_*.deb "$work/$1" && cp -R "$work/$1/usr/include/$2" "$headers/"
}

# The header of the pinned miniaudio, out of its source distribution.
pypi_miniaudio() {
    python=$(command -v python3 || command -v python) || return 1
    "$python" -m pip download --quiet --no-deps --no-binary miniaudio -d "$work" \
        "miniaudio==$miniaudio" >/dev/null 2>&1 || return 1
    tar -xzf "$work/miniaudio-$miniaudio.tar.gz" -C "$work"
    mkdir -p "$headers/miniaudio"
    cp "$work/miniaudio-$miniaudio/miniaudio/miniaudio.h" "$headers/miniaudio/"
}

if "$target/ollama" --version >/dev/null 2>&1; then
    echo "ollama: already in .tools/ollama"
    exit 0
fi
command -v go >/dev/null || skip "there is no Go on this machine"
command -v "${CXX:-c++}" >/dev/null || skip "there is no C++ compiler on this machine"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$headers"
if missing nlohmann/json_fwd.hpp; then
    debian nlohmann-json3-dev nlohmann || skip "nlohmann/json_fwd.hpp is not to be had (Debian: nlohmann-json3-dev)"
fi
if missing stb/stb_image.h; then
    debian libstb-dev stb || skip "stb/stb_image.h is not to be had (Debian: libstb-dev)"
fi
if missing miniaudio/miniaudio.h; then
    pypi_miniaudio || skip "miniaudio/miniaudio.h is not to be had (PyPI: miniaudio $miniaudio)"
fi

# Ollama's own releases bring a library per kind of processor; a build by Go alone has one, for the
# oldest, some 30 times slower. This one is for the processor it is built on.
native="-O3"
# Its parts for AMX are left out of the module, while ggml would call them where it is told of AMX.
for flags in "-march=native -mno-amx-tile -mno-amx-int8 -mno-amx-bf16" "-march=native"; do
    # shellcheck disable=SC2086 # several words on purpose
    if echo 'int main(void) { return 0; }' | ${CC:-cc} $flags -E -x c - >/dev/null 2>&1; then
        native="$native $flags"
        break
    fi
done
export CGO_CFLAGS="${CGO_CFLAGS:-$native}" CGO_CXXFLAGS="${CGO_CXXFLAGS:-$native}"

echo "ollama: building $version with $(go version | cut -d ' ' -f 3); this takes some minutes"
# By CPATH, which is no flag: what Go keeps of a build is good for every clone on this machine.
export GOBIN="$target" CGO_ENABLED=1 CPATH="$headers${CPATH:+:$CPATH}"
build() {
    go install -ldflags "-s -w -X github.com/ollama/ollama/version.Version=${version#v}" \
        "github.com/ollama/ollama@$version" >"$work/log" 2>&1
}
# Once more for a download that broke off: what has arrived is kept.
build || build || {
    tail -n 40 "$work/log" >&2
    echo "ollama: $version could not be built; the lines above say why" >&2
    exit 1
}
"$target/ollama" --version 2>/dev/null | grep -i version
