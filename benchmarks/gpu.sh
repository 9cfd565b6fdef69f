#!/bin/sh
# The prior on one GPU: benchmarks/gpu.sh MINUTES OUT (benchmarks/gpu_prior.py says what it does).
#
# .gpu/wheels holds what such a machine lacks, .gpu/photos what `make photos` fetched; OUT gets the
# log and, in parts of 15 MB, the folders. GPU_HOME, GPU_PYTHON and GPU_FLAGS are for trying it.
set -eu
minutes=$1 out=$2
home=${GPU_HOME:-$(mktemp -d)} python=${GPU_PYTHON:-python3}
mkdir -p "$home" "$out"
if [ ! -d "$home/site" ] && [ -d .gpu/wheels ]; then
  $python -m pip install -q --no-index --no-deps --target "$home/site" .gpu/wheels/*.whl
fi
export PYTHONPATH="$PWD:$home/site${PYTHONPATH:+:$PYTHONPATH}" CDD_PHOTOS="$PWD/.gpu/photos"
export TF_CPP_MIN_LOG_LEVEL=2 PYTHONWARNINGS=ignore
# Measuring which kernel of cuDNN and Triton is fastest took longer than the whole budget.
export XLA_FLAGS='--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0'
module="$python -m benchmarks.gpu_prior --work=$home ${GPU_FLAGS:-}"
JAX_PLATFORMS=cpu OMP_NUM_THREADS=1 nice -n 19 $module --phase=render >"$out/render.txt" 2>&1 &
renderer=$!
status=0
$module --phase=train --budget="$minutes" >"$out/train.txt" 2>&1 || status=$?
kill $renderer 2>/dev/null || true
for folder in autoencoder prior; do
  [ ! -d "$home/$folder" ] || tar -C "$home" -cf - $folder | split -b 15000000 - "$out/$folder.tar."
done
tail -n 60 "$out/train.txt"
tail -n 2 "$out/render.txt"
ls -l "$out"
exit $status
