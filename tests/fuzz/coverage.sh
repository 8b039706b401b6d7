#!/usr/bin/env bash
# Fuzzing with coverage as the guide, on the stable compiler and without further tools: only this workspace's crates are
# built again, instrumented. TIDEWATER_FUZZ_SECONDS and TIDEWATER_FUZZ_TARGET as in main.rs; what reaches new code is
# added to tests/fuzz/corpus.
#
#     TIDEWATER_FUZZ_SECONDS=60 tests/fuzz/coverage.sh
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [ "${1:-}" = wrap ]; then # as cargo's wrapper of rustc: wrap <rustc> <arguments>
    shift
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Clink-arg=-Wl,--unresolved-symbols=ignore-all
fi
cd "$here/../.."
wrapper="$(mktemp)"
trap 'rm -f "$wrapper"' EXIT
printf '#!/bin/sh\nexec %q wrap "$@"\n' "$here/coverage.sh" >"$wrapper"
chmod +x "$wrapper"
RUSTC_WORKSPACE_WRAPPER="$wrapper" TIDEWATER_FUZZ_SECONDS="${TIDEWATER_FUZZ_SECONDS:-20}" \
    cargo test --release --test fuzz -- --nocapture
