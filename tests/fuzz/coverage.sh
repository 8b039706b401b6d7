#!/usr/bin/env bash
# Fuzzing with coverage as the guide, on the stable compiler and without further tools: LLVM counts edges in this
# workspace's crates. TIDEWATER_FUZZ_SECONDS (for each target, 20), TIDEWATER_FUZZ_TARGET and TIDEWATER_SEED as in main.rs;
# what reaches new code is added to tests/fuzz/corpus, what fails is printed.
#
#     TIDEWATER_FUZZ_SECONDS=60 tests/fuzz/coverage.sh
#
# It builds into a directory of its own (TIDEWATER_FUZZ_DIR), because the programs it makes are not for use: the first
# run builds the dependencies there, about fifteen minutes on two cores.
set -euo pipefail
case "${1:-}" in
*rustc) # As cargo's wrapper: <rustc> <arguments>. The harness does not count itself.
    case " $* " in *" --crate-name fuzz "*) exec "$@" ;; esac
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Clink-arg=-Wl,--unresolved-symbols=ignore-all
    ;;
esac
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../.."
export CARGO_TARGET_DIR="${TIDEWATER_FUZZ_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/tidewater-ci/fuzz}"
export RUSTC_WORKSPACE_WRAPPER="$here/coverage.sh"
export TIDEWATER_FUZZ_SECONDS="${TIDEWATER_FUZZ_SECONDS:-20}"
exec cargo test --release --test fuzz "$@" -- --nocapture
