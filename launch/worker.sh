#!/usr/bin/env bash
# One host's part of launch/tpu.sh, which copies it there: installs the checkout, runs one command
# apart from the connection that started it, and says how that ended.
#
#   worker.sh install PYTHON EXTRAS [BUCKET]   a virtual environment, and the bucket at /bucket
#   worker.sh check CHIPS HOSTS SLICES         fails unless jax sees so many on all hosts together
#   worker.sh start COMMAND...                 refused while another one runs
#   worker.sh status [COMMAND...]              one line: state=WORD code=EXIT_CODE host=NAME; if the
#                                              newest command is not COMMAND, busy or none
#   worker.sh log LINES [follow]               the last lines of the log, each with the host's name
#   worker.sh stop SECONDS                     SIGTERM, on which cdd saves; waits until it has ended
set -euo pipefail

checkout=$HOME/cdd
venv=$HOME/cdd-venv
run=$HOME/cdd-run # log.txt, and of the newest command: pid, child, code
boot=$(cat /proc/sys/kernel/random/boot_id)

die() {
  echo "error: $(hostname): $*" >&2
  exit 1
}

install() {
  local python=$1 extras=$2 bucket=${3:-} uv=$HOME/.local/bin/uv
  mkdir -p "$run"
  # The images' own Python is older than cdd's oldest; uv brings one where it is needed.
  [[ -x $uv ]] || curl -LsSf https://astral.sh/uv/install.sh | UV_NO_MODIFY_PATH=1 sh >/dev/null
  [[ -x $venv/bin/python ]] || "$uv" venv --quiet --python "$python" "$venv"
  "$uv" pip install --quiet --python "$venv/bin/python" --editable "${checkout}[$extras]"
  if [[ -n $bucket ]]; then
    echo "$bucket" >"$run/bucket"
    mount_bucket
  fi
}

# What another host has written is seen at once: nothing about files is remembered.
mount_bucket() {
  local bucket mounted
  bucket=$(cat "$run/bucket")
  if mountpoint -q /bucket; then
    mounted=$(findmnt -n -o SOURCE /bucket)
    [[ $mounted == "$bucket" ]] || die "/bucket is the bucket $mounted, not $bucket."
    return
  fi
  command -v gcsfuse >/dev/null || install_gcsfuse
  sudo mkdir -p /bucket
  sudo chown "$(id -un)" /bucket
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 \
    "$bucket" /bucket
}

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc url=https://packages.cloud.google.com/apt
  curl -LsSf "$url/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $url gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get -o DPkg::Lock::Timeout=600 -qq update
  sudo apt-get -o DPkg::Lock::Timeout=600 -qq install -y gcsfuse
}

check() {
  "$venv/bin/python" - "$@" <<'PYTHON'
import sys

import jax

chips, hosts, slices = map(int, sys.argv[1:])
if hosts > 1:
  jax.distributed.initialize()
found = f'{jax.device_count()} {jax.default_backend()} devices on {jax.process_count()} hosts'
asked = f'{chips} on {hosts}'
there = len({getattr(device, 'slice_index', 0) for device in jax.devices()})
if slices > 1:
  found, asked = f'{found} of {there} slices', f'{asked} of {slices}'
if (jax.device_count(), jax.process_count(), there) != (chips, hosts, slices):
  sys.exit(f'error: jax {jax.__version__} finds {found}, not {asked}.')
if jax.process_index() == 0:
  print(f'jax {jax.__version__} finds {found}.', flush=True)
PYTHON
}

# Whether the process of a file is there; numbers start anew when a host does.
alive() {
  local pid at
  [[ -e $run/$1 ]] || return 1
  read -r pid at <"$run/$1"
  [[ $at == "$boot" ]] && kill -0 "$pid" 2>/dev/null
}

# A word for what became of the newest command; launch/README.md says what each means.
word() {
  if [[ -e $run/code ]]; then
    case $(cat "$run/code") in
      0) echo finished ;;
      75 | 143) echo stopped ;; # Saved on SIGTERM, or ended by it outside of training.
      *) echo failed ;;
    esac
  elif alive pid; then
    echo running
  elif [[ -e $run/pid ]]; then
    echo lost
  else
    echo none
  fi
}

start() {
  [[ $(word) != running ]] || die "A command runs already: $(cat "$run/command"). Stop it first."
  [[ ! -e $run/bucket ]] || mount_bucket
  mkdir -p "$run"
  rm -f "$run/pid" "$run/child" "$run/code"
  printf '%q ' "$@" >"$run/command"
  setsid nohup bash "$checkout/launch/worker.sh" supervise "$@" >>"$run/log.txt" 2>&1 </dev/null &
  echo "$! $boot" >"$run/pid"
}

supervise() {
  local code=0
  cd "$checkout"
  export PATH="$venv/bin:$PATH" PYTHONUNBUFFERED=1 TQDM_MININTERVAL=30
  echo "[$(date -u +%FT%TZ)] $(cat COMMIT): $*"
  "$@" &
  echo "$! $boot" >"$run/child"
  wait "$!" || code=$?
  echo "[$(date -u +%FT%TZ)] ended with exit code $code"
  echo "$code" >"$run/code.new"
  mv "$run/code.new" "$run/code"
}

# shellcheck disable=SC2120 # Within this script it is about any command.
status() {
  local code='' state
  [[ ! -e $run/code ]] || code=$(cat "$run/code")
  state=$(word)
  if [[ $# -gt 0 && $state != none && $(printf '%q ' "$@") != "$(cat "$run/command")" ]]; then
    if [[ $state == running ]]; then state=busy; else state=none; fi
  fi
  echo "state=$state code=${code:--} host=$(hostname)"
}

log() {
  local follow=()
  [[ -e $run/log.txt ]] || die 'There is no log: nothing was started here.'
  [[ -z ${2:-} ]] || follow=(-F)
  tail -n "$1" ${follow[@]+"${follow[@]}"} "$run/log.txt" | sed -u "s/^/$(hostname)  /"
}

stop() {
  local seconds=$1
  if ! alive child; then
    # shellcheck disable=SC2119
    status
    return
  fi
  kill -TERM "$(cut -d' ' -f1 "$run/child")"
  while [[ $(word) == running && $seconds -gt 0 ]]; do
    sleep 1
    seconds=$((seconds - 1))
  done
  # shellcheck disable=SC2119
  status
}

case ${1:-} in
  install | check | start | supervise | status | log | stop) "$@" ;;
  *) die "Unknown command '${1:-}'; the head of launch/worker.sh lists them." ;;
esac
