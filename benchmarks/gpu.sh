#!/bin/sh
# The prior on one GPU: benchmarks/gpu.sh MINUTES OUT (benchmarks/long_prior.py, --stage=gpu).
#
# .gpu/wheels holds what such a machine lacks, .gpu/photos what `make photos` fetched, and .gpu/start,
# if it is there, the diffusers folder to go on from; OUT gets the log and, in parts of 15 MB, the
# folder. GPU_HOME and GPU_PYTHON are for trying it.
set -eu
minutes=$1 out=$2
home=${GPU_HOME:-$(mktemp -d)} python=${GPU_PYTHON:-python3}
mkdir -p "$home" "$out"
if [ ! -d "$home/site" ] && [ -d .gpu/wheels ]; then
  $python -m pip install -q --no-index --no-deps --target "$home/site" .gpu/wheels/*.whl
fi
export PYTHONPATH="$PWD:$home/site${PYTHONPATH:+:$PYTHONPATH}" CDD_PHOTOS="$PWD/.gpu/photos"
export PYTHONWARNINGS=ignore JAX_PLATFORMS=cpu
start=
[ ! -d .gpu/start ] || start=--start=.gpu/start
status=0
$python -m benchmarks.long_prior --home="$home" --stage=gpu --minutes="$minutes" --threads=4 $start \
  >"$out/train.txt" 2>&1 || status=$?
[ ! -d "$home/export" ] || tar -C "$home" -cf - export | split -b 15000000 - "$out/export.tar."
tail -n 60 "$out/train.txt"
ls -l "$out"
exit $status
