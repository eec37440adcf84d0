#!/usr/bin/env bash
# Tests lightspan on the first NVIDIA GPU of this machine, then measures it. Neither Rust nor a network is needed, only
# the GPU's driver, of series 550 or newer. What comes out is in results/DATE: results.txt, results.json, and a file for
# all that each step printed.
set -uo pipefail

usage="usage: run.sh [--quick]   (--quick: short measurements)"
quick=()
case "$*" in
    "") ;;
    "--quick") quick=(--quick) ;;
    *) echo "$usage" >&2; exit 2 ;;
esac
command_line="run.sh $*"

fail() {
    echo "run.sh: $1" >&2
    exit 1
}

cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
# A line of bundle.txt.
note() { sed -n "s/^$1=//p" bundle.txt; }

# What this machine has to have.
[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || fail "the programs are for Linux on x86-64: this is $(uname -s) on $(uname -m)"
needed=$(note glibc)
found=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/^glibc //')
[ -n "$found" ] || fail "the programs need glibc $needed or newer, and this system does not say that it has any"
[ "$(printf '%s\n' "$needed" "$found" | sort -V | head -n 1)" = "$needed" ] || fail "the programs need glibc $needed or newer: this is $found"
for packed in bin/*.gz; do
    gzip --decompress --keep --force "$packed" || fail "cannot unpack $packed"
done
# The same order of devices for the programs and nvidia-smi.
export CUDA_DEVICE_ORDER=PCI_BUS_ID
devices=$(bin/devices --require cuda) || fail "there is no GPU to run on (see above)"
gpu=$(sed -n 's/^cuda: //p' <<<"$devices" | head -n 1)
if command -v nvidia-smi >/dev/null; then
    nvidia-smi
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
else
    echo "nvidia-smi is not in PATH"
    driver=$(grep -o 'Kernel Module  *[0-9.]*' /proc/driver/nvidia/version 2>/dev/null | grep -o '[0-9.]*$')
fi
driver=${driver:-unknown}

date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
results=results/${date//:/-}
mkdir -p "$results" || fail "cannot write $results"
echo "$devices"
echo "GPU: $gpu, driver $driver; results go to $results"

names=() codes=() times=() lines=() skipped=()
skip() {
    echo
    echo "== SKIPPED: $1"
    skipped+=("$1")
}
# Runs a command, keeps what it prints and whether it failed.
step() {
    local name=$1 begin=$SECONDS code
    shift
    echo
    echo "== $name: $*"
    "$@" 2>&1 | tee "$results/$name.txt"
    code=${PIPESTATUS[0]}
    names+=("$name") codes+=("$code") times+=($((SECONDS - begin))) lines+=("$*")
    echo "== $name: $((SECONDS - begin)) s, exit status $code"
}

# Right: nothing may be skipped on CUDA.
export LIGHTSPAN_FIXTURES=$PWD/fixtures
without=
if ! grep -q '^wgpu, real: ' <<<"$devices"; then
    without=wgpu
    skip "the tests of wgpu, as this machine has no GPU with a driver for Vulkan (LIGHTSPAN_SKIP=wgpu)"
fi
step suite env LIGHTSPAN_REQUIRE=cuda LIGHTSPAN_SKIP="$without" bin/suite
step conformance bin/conformance --backend reference --backend cuda fixtures
if command -v compute-sanitizer >/dev/null; then
    some=(linear::every_size_before_the_last_is_rows linear::relu_keeps_nan_and_cuts_what_is_negative)
    for tool in memcheck racecheck synccheck initcheck; do
        sanitizer=(compute-sanitizer --tool "$tool" --error-exitcode 9)
        step "$tool-conformance" "${sanitizer[@]}" bin/conformance --backend cuda fixtures
        step "$tool-suite" env LIGHTSPAN_REQUIRE=cuda LIGHTSPAN_SKIP=wgpu "${sanitizer[@]}" bin/suite "${some[@]}"
    done
else
    skip "compute-sanitizer, which is not in PATH"
fi

# Fast.
export CRITERION_HOME=$results/criterion
step operators env LIGHTSPAN_BENCH_DEVICE=cuda LIGHTSPAN_BENCH_JSON="$results/operators.jsonl" bin/operators --bench "${quick[@]}"
for type in f32 bf16; do
    step "race-$type" bin/race --backend cuda --dtype "$type" --out "$results/race-$type.svg" "${quick[@]}"
done
if python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    for type in float32 bfloat16; do
        pytorch=(python3 pytorch.py --device cuda --dtype "$type" --json "$results/pytorch.jsonl")
        # The two side by side, where there is something to set beside.
        [ -f "$results/operators.jsonl" ] && pytorch+=(--beside "$results/operators.jsonl")
        step "pytorch-$type" "${pytorch[@]}"
        step "pytorch-large-$type" "${pytorch[@]}" --size 8,4096,1024,16 --widths 3,31
        step "pytorch-training-$type" "${pytorch[@]}" --training
        step "pytorch-wide-$type" "${pytorch[@]}" --size 8,4096,1024,16 --widths 127 --only light
    done
else
    skip "PyTorch: python3 has no torch with CUDA"
fi

# Text of any kind as a string of JSON.
string() { printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\037' | sed 's/[\\"]/\\&/g')"; }
# The lines of a file, each an object, as a list.
list() {
    printf '['
    [ -f "$1" ] && paste -sd, "$1" | tr -d '\n'
    printf ']'
}
failed=0
for code in "${codes[@]}"; do
    [ "$code" = 0 ] || failed=1
done
{
    echo "lightspan, commit $(note commit)"
    echo "GPU: $gpu, driver $driver"
    echo "$date, $command_line"
    echo
    for i in "${!names[@]}"; do
        [ "${codes[i]}" = 0 ] && verdict=ok || verdict=FAILED
        printf '%-26s %-7s %5s s  %s\n' "${names[i]}" "$verdict" "${times[i]}" "${lines[i]}"
    done
    for what in "${skipped[@]}"; do
        echo "SKIPPED: $what"
    done
} >"$results/results.txt"
{
    printf '{"commit": %s, ' "$(string "$(note commit)")"
    printf '"gpu": %s, "driver": %s, ' "$(string "$gpu")" "$(string "$driver")"
    printf '"date": %s, "command": %s,\n"steps": [' "$(string "$date")" "$(string "$command_line")"
    comma=
    for i in "${!names[@]}"; do
        printf '%s\n{"name": %s, "exit_status": %s, "seconds": %s, "command": %s}' \
            "$comma" "$(string "${names[i]}")" "${codes[i]}" "${times[i]}" "$(string "${lines[i]}")"
        comma=,
    done
    printf '],\n"skipped": ['
    comma=
    for what in "${skipped[@]}"; do
        printf '%s%s' "$comma" "$(string "$what")"
        comma=,
    done
    printf '],\n"operators": %s,\n"pytorch": %s}\n' "$(list "$results/operators.jsonl")" "$(list "$results/pytorch.jsonl")"
} >"$results/results.json"
echo
cat "$results/results.txt"
exit $failed
