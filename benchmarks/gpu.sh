#!/bin/sh
# On one GPU, for a machine that is lent for minutes:
#   benchmarks/gpu.sh prior OUT MINUTES   trains the prior (benchmarks/long_prior.py, --stage=gpu)
#   benchmarks/gpu.sh speed OUT MINUTES   SD 1.5 at 512 px: an update of an adapter, and sampling in
#                                         four steps, beside PyTorch's, compiled
#
# .gpu/wheels holds what such a machine lacks, .gpu/photos what `make photos` fetched, and .gpu/start,
# if it is there, the diffusers folder whose U-Net the prior starts from. OUT gets what was printed
# and, in parts of 15 MB, the new folder. GPU_HOME and GPU_PYTHON are for trying it without a GPU.
set -eu
what=$1 out=$2 minutes=$3
home=${GPU_HOME:-$(mktemp -d)} python=${GPU_PYTHON:-python3}
mkdir -p "$home" "$out"
if [ ! -d "$home/site" ] && [ -d .gpu/wheels ]; then
  $python -m pip install -q --no-index --no-deps --target "$home/site" .gpu/wheels/*.whl
fi
export PYTHONPATH="$PWD:$home/site${PYTHONPATH:+:$PYTHONPATH}" CDD_PHOTOS="$PWD/.gpu/photos"
export PYTHONWARNINGS=ignore XLA_PYTHON_CLIENT_PREALLOCATE=false
status=0
case $what in
prior)
  start=
  [ ! -d .gpu/start ] || start=--weights=.gpu/start
  JAX_PLATFORMS=cpu $python -m benchmarks.long_prior --home="$home" --stage=gpu --threads=4 \
    --budget="$minutes" $start >"$out/prior.txt" 2>&1 || status=$?
  [ ! -d "$home/export" ] || tar -C "$home" -cf - export | split -b 15000000 - "$out/export.tar."
  ;;
speed)
  # A batch of what fits, in the order of what matters most: the time may end in the middle.
  {
    for run in 'step --batch=4 --rounds=10' 'sampling --steps=4 --rounds=10'; do
      echo "\$ python -m benchmarks.$run --size=${GPU_SIZE:-sd15} --compile"
      # shellcheck disable=SC2086
      timeout "$((minutes * 30))" $python -m benchmarks.$run --size="${GPU_SIZE:-sd15}" --compile
    done
  } >"$out/speed.txt" 2>&1 || status=$?
  ;;
*)
  echo "error: benchmarks/gpu.sh takes prior or speed, not $what" >&2
  exit 2
  ;;
esac
tail -n 60 "$out/$what.txt"
ls -l "$out"
exit $status
