# shellcheck shell=bash
# Sourced by the scripts in this folder: where things are, and how they get their compilers and tools.
# Everything that is built or unpacked lands below target/ (or $CARGO_TARGET_DIR); nothing outside it is changed, except
# that missing Debian packages are installed.
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "${CARGO_TARGET_DIR:-target}"
build=$(realpath "${CARGO_TARGET_DIR:-target}")

# The scripts bring what they need; no tool shall fetch parts of a compiler behind their back.
export RUSTUP_AUTO_INSTALL=0 RUSTUP_DIST_SERVER=http://127.0.0.1:9 RUSTUP_UPDATE_ROOT=http://127.0.0.1:9
export CARGO_LLVM_COV_SETUP=no CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never} CARGO_INCREMENTAL=0

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# debian PACKAGE...: installs those that are missing.
debian() {
  local package missing=()
  for package; do
    [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == *' installed' ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  [[ $EUID == 0 ]] || fail "needs the Debian packages ${missing[*]}: install them, or run this as root"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 \
    "${missing[@]}" >/dev/null
}

# compiler 1.96 | 1.85: unpacks that compiler if it is not there yet, and selects it for what follows.
compiler() {
  CARGO_TARGET_DIR=$build bash .ci/compilers "$1"
  # shellcheck disable=SC1090
  . "$build/compilers/$1/env"
}

# tool NAME VERSION: builds that cargo subcommand if it is not there yet, and puts it on the PATH.
tool() {
  local dir=$build/tools/$1-$2
  if [[ ! -x $dir/bin/$1 ]]; then
    printf 'building %s %s\n' "$1" "$2"
    CARGO_TARGET_DIR=$build/tools/build cargo install --quiet --locked --root "$dir" "$1@$2"
  fi
  PATH=$dir/bin:$PATH
}

# builds_in NAME: gives the calling check a target folder of its own, so that checks do not undo each other's work.
builds_in() {
  export CARGO_TARGET_DIR=$build/$1
}

# copy_to DIR: a fresh copy of the source tree, for a check that would change files.
copy_to() {
  rm -rf "$1"
  mkdir -p "$1"
  tar -c --exclude=./.git --exclude=./target --exclude=./benches/peers/target --exclude=./benches/queues/target \
    --exclude=./benches/queues/peers-sqlite/target --exclude=./benches/queues/peers-redis/target \
    --exclude=./examples/top/target . | tar -x -C "$1"
}

# limited SECONDS COMMAND...: what hangs is ended, and has failed.
limited() {
  timeout --kill-after 10 "$@"
}

# run_tests FLAG... [-- ARGUMENT... [-- ARGUMENT...]]: the unit and integration tests, or those that the arguments of cargo
# test say, with these flags of cargo, but without the tests in $skipped. One test file runs an example: it is built first.
run_tests() {
  local flags=() arguments=()
  while (($#)) && [[ $1 != -- ]]; do flags+=("$1") && shift; done
  shift $(($# > 0))
  while (($#)) && [[ $1 != -- ]]; do arguments+=("$1") && shift; done
  shift $(($# > 0))
  ((${#arguments[@]})) || arguments=(--lib --tests)
  cargo build "${flags[@]}" --examples
  # A backtrace of a planned panic takes seconds where everything is slow.
  RUST_BACKTRACE=0 limited 2400 cargo test "${flags[@]}" --no-fail-fast "${arguments[@]}" -- "${skipped[@]/#/--skip=}" "$@"
}
skipped=()
