#!/usr/bin/env bash
# Tests lightspan on the first NVIDIA GPU of this machine, then measures it. Neither Rust nor a network is needed, only
# the GPU's driver, of series 550 or newer; and for lightspan inside candle libraries of CUDA 12 or 13, as PyTorch's
# packages or a toolkit bring them. What comes out is in results/DATE: results.txt, results.json, and a file for
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

# candle's CUDA devices want these libraries. Its programs ask for them without a version, as what they call is the same in
# both: links lead from such names to files of one version.
places=$(
    tr ':' '\n' <<<"${LD_LIBRARY_PATH:-}"
    python3 - 2>/dev/null <<'PYTHON'
import glob, sys
for place in [*sys.path, sys.prefix]:
    for folder in [*glob.glob(place + "/nvidia/*/lib"), place + "/torch/lib", place + "/lib"]:
        print(folder)
PYTHON
    echo "${CUDA_HOME:-/usr/local/cuda}/lib64"
    PATH=$PATH:/usr/sbin:/sbin ldconfig -p 2>/dev/null | sed -n 's|.* => \(.*\)/libcublas\.so\.[0-9]*$|\1|p'
)
candle=() missing=
for cuda in 12 13; do
    rm -rf libraries
    mkdir libraries || fail "cannot make the folder libraries"
    candle=("$PWD/libraries") absent=()
    for library in "libcublas.so.$cuda" "libcublasLt.so.$cuda" libcurand.so.10; do
        found=
        while read -r place; do
            [ -n "$place" ] && [ -f "$place/$library" ] && found=$place && break
        done <<<"$places"
        [ -n "$found" ] || { absent+=("$library") && continue; }
        ln -s "$found/$library" "libraries/${library%.so.*}.so"
        # Where the libraries in turn find what they need.
        candle+=("$found")
    done
    [ ${#absent[@]} = 0 ] && break
    missing+="${missing:+, and }CUDA $cuda would be with ${absent[*]}"
    candle=()
done
if [ ${#candle[@]} = 0 ]; then
    skip "lightspan inside candle, for which libraries are missing: $missing"
else
    # Some of them want this one besides.
    while read -r place; do
        [ -n "$place" ] && [ -f "$place/libcudart.so.$cuda" ] && candle+=("$place")
    done <<<"$places"
    candle=("LD_LIBRARY_PATH=$(IFS=:; echo "${candle[*]}")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" LIGHTSPAN_CANDLE_DEVICE=cuda)
    echo "== candle runs with libraries of CUDA $cuda: $(readlink libraries/libcublas.so)"
fi
# lightspan itself takes cuBLASLt where it finds it, for linear layers. Here it is told not to, but for what is of that library,
# which finds the same one as candle.
export LIGHTSPAN_CUBLASLT=0
cublaslt=()
if [ ${#candle[@]} = 0 ]; then
    skip "linear layers by cuBLASLt, which is among those libraries"
else
    cublaslt=("${candle[0]}")
fi

# Right: nothing may be skipped on CUDA.
export LIGHTSPAN_FIXTURES=$PWD/fixtures
without=
if ! grep -q '^wgpu, real: ' <<<"$devices"; then
    without=wgpu
    skip "the tests of wgpu, as this machine has no GPU with a driver for Vulkan (LIGHTSPAN_SKIP=wgpu)"
fi
step suite env LIGHTSPAN_REQUIRE=cuda LIGHTSPAN_SKIP="$without" bin/suite
if [ ${#cublaslt[@]} != 0 ]; then
    products=(cuda::cublaslt cuda::own_buffers::linear cuda::streams linear:: nn:: models::)
    step suite-cublaslt env "${cublaslt[@]}" LIGHTSPAN_CUBLASLT=1 LIGHTSPAN_REQUIRE=cuda,cublaslt LIGHTSPAN_SKIP=wgpu \
        bin/suite "${products[@]}"
fi
step conformance bin/conformance --backend reference --backend cuda fixtures
[ ${#candle[@]} = 0 ] || step candle-suite env "${candle[@]}" bin/candle-suite
if command -v compute-sanitizer >/dev/null; then
    some=(
        linear::every_size_before_the_last_is_rows linear::relu_keeps_nan_and_cuts_what_is_negative
        norm::every_size_before_the_last_is_rows norm::long_rows norm::rows_without_deviation
        embedding::moved_rows_keep_their_numbers embedding::rows_of_any_size
        top_k::long_rows top_k::rows_without_a_softmax
        append::room_is_used_to_the_last_token
    )
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
step operators env "${cublaslt[@]}" LIGHTSPAN_BENCH_DEVICE=cuda LIGHTSPAN_BENCH_JSON="$results/operators.jsonl" bin/operators --bench "${quick[@]}"
for type in f32 bf16; do
    step "race-$type" bin/race --backend cuda --dtype "$type" --out "$results/race-$type.svg" "${quick[@]}"
    # Whole encoders, of one sequence and of as many as fill a GPU.
    for batch in 1 8; do
        step "race-model-$type-$batch" bin/race --model --size base --batch "$batch" --backend cuda --dtype "$type" \
            --out "$results/race-model-$type-$batch.svg" "${quick[@]}"
    done
done
[ ${#candle[@]} = 0 ] || step candle env "${candle[@]}" CRITERION_HOME="$results/candle" bin/candle --bench "${quick[@]}"
if python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    for type in float32 bfloat16; do
        pytorch=(python3 pytorch.py --device cuda --dtype "$type" --json "$results/pytorch.jsonl")
        # The two side by side, where there is something to set beside.
        [ -f "$results/operators.jsonl" ] && pytorch+=(--beside "$results/operators.jsonl")
        step "pytorch-$type" "${pytorch[@]}"
        step "pytorch-large-$type" "${pytorch[@]}" --size 8,4096,1024,16 --widths 3,31
        step "pytorch-training-$type" "${pytorch[@]}" --training
        step "pytorch-layers-$type" "${pytorch[@]}" --layers
        step "pytorch-layers-large-$type" "${pytorch[@]}" --layers --size 8,4096,1024,16
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
# What criterion has measured, each with its name, as a list.
criterion() {
    local estimates comma=
    printf '['
    while read -r estimates; do
        printf '%s\n{"benchmark": %s, "estimates": %s}' "$comma" "$(cat "${estimates%/*}/benchmark.json")" "$(cat "$estimates")"
        comma=,
    done < <(find "$1" -path '*/new/estimates.json' 2>/dev/null | sort)
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
    printf '],\n"operators": %s,\n"pytorch": %s,\n' "$(list "$results/operators.jsonl")" "$(list "$results/pytorch.jsonl")"
    printf '"candle": %s}\n' "$(criterion "$results/candle")"
} >"$results/results.json"
echo
cat "$results/results.txt"
exit $failed
