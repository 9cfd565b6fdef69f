#!/usr/bin/env bash
# Runs cdd on TPU slices of Google Cloud; launch/README.md goes through it step by step.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=launch/slice.sh
. "$launch/slice.sh"

help() {
  cat <<'TEXT'
launch/tpu.sh COMMAND --name=NAME [FLAGS] [-- COMMAND TO RUN]

  create   requests a slice, or several, as a queued resource and waits until it is ACTIVE
  setup    copies this checkout to every host, installs it and counts the chips
  run      starts the command after -- on every host; it goes on without this computer
  status   what became of it on every host
  logs     what it printed
  stop     has it save and end, and keeps the slice
  watch    creates, sets up and runs what is not there, and again after each preemption, until the
           command is finished or fails; give it what create, setup and run were given
  delete   deletes the slice and lists what is left

Flags of all commands:
  --name=NAME              of the queued resource and of its TPU
  --zone=ZONE              such as us-west4-a; as `gcloud config set compute/zone` if not given
  --project=PROJECT        as `gcloud config set project` if not given
  --dry_run                prints every command that would change something or ask, and runs none
  --help                   prints this
create, watch:
  --type=TYPE              such as v5litepod-16, or v5e:4x4 by its shape (accelerators.txt)
  --slices=N               of this type, for one run over all of them; 1
  --spot                   cheaper, and taken away at any time
  --reserved               from your reservation
  --network=NAME           if not default
  --subnetwork=NAME        if not that of the network
  --service_account=EMAIL  whom the hosts act as; Compute Engine's default account if not given
  --wait=MINUTES           how long to wait for the slice; 1440
setup, watch:
  --bucket=NAME            is mounted at /bucket on every host
  --extras=EXTRAS          of setup.cfg; tpu,gcs
  --python=VERSION         of the virtual environment; 3.12
logs:
  --worker=N               of this host, which several slices count on; 0. Or all: of all, each
                           line with its host's name
  --lines=N                how many of the last lines; 100
  --follow                 prints what is added, until Ctrl-C
  --to=FOLDER              copies the whole log of every host into it, as worker_N.txt
stop:
  --wait=MINUTES           how long to wait until it has ended; 10
watch:
  --max_restarts=N         how often it begins again before it gives up; 20
  --delete_when_done       deletes the slice once the command is finished
create, watch:
  --interval=SECONDS       between two looks; 60
delete:
  --bucket=NAME            deletes this bucket too, with everything in it
TEXT
}

setup() {
  # By itself on one host first: this makes the key of ssh, which all at once need in the agent.
  on 0 true
  add_key
  [[ $(run_state) != running ]] || die "A command runs there: $0 stop --name=$name ends it."
  packed=$(mktemp -d)
  trap 'rm -r "$packed"' EXIT
  pack "$packed"
  reach all
  tpus "$resource" scp "$packed/cdd.tar.gz" "$name:" "${at[@]}" --quiet
  on all sh -c 'rm -rf cdd && mkdir cdd && tar -xzf cdd.tar.gz -C cdd'
  on_worker all install "$python" "$extras" ${bucket:+"$bucket"}
  on_worker all check "$chips" "$hosts" "$slices"
}

# The files of this checkout that git does not ignore, changed or not, and the commit's name.
pack() {
  local root file
  root=$(cd "$launch/.." && pwd)
  git -C "$root" rev-parse 2>/dev/null || die "$root is no git checkout; clone the repository."
  git -C "$root" describe --always --dirty --abbrev=10 >"$1/COMMIT"
  say "Copies $(cat "$1/COMMIT") to the hosts of $name."
  git -C "$root" ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do
      if [[ -e $root/$file || -L $root/$file ]]; then printf '%s\n' "$file"; fi
    done >"$1/files"
  # Without macOS's files of attributes.
  COPYFILE_DISABLE=1 call tar -czf "$1/cdd.tar.gz" -C "$1" COMMIT -C "$root" -T "$1/files"
}

# Where an agent runs, gcloud asks that it holds the key before it connects to several hosts.
add_key() {
  local key=$HOME/.ssh/google_compute_engine
  if [[ -n ${SSH_AUTH_SOCK:-} && -e $key ]]; then call ssh-add -q "$key"; fi
}

# What became of the command, or of exactly that which `watch` was given: a line from every host, in
# the words of launch/worker.sh, or `bare` where that is not set up yet.
reports() {
  local said code=0 line='if test -e cdd/launch/worker.sh; then bash cdd/launch/worker.sh status' only=''
  [[ $action != watch ]] || only=" $(quoted "${command[@]}")"
  # shellcheck disable=SC2016 # The host's name, not this computer's.
  line+="$only"'; else echo "state=bare code=- host=$(hostname)"; fi'
  reach all
  said=$(mktemp) # gcloud tells of each connection, which matters if one fails.
  ask "state=${begun:-none} code=- host=" gcloud compute tpus "$resource" ssh "$name" \
    "${at[@]}" --command="$line" --quiet ${place[@]+"${place[@]}"} 2>"$said" || code=$?
  [[ $code == 0 ]] || cat "$said" >&2
  rm -f "$said"
}

# The word that says it of all hosts together.
run_state() {
  summary "$(reports)"
}

summary() {
  local word
  if [[ -z $dry_run && $(grep -c '^state=' <<<"$1") -lt $hosts ]]; then
    echo unreachable
    return
  fi
  for word in busy running bare lost failed stopped none finished; do
    if grep -q "^state=$word " <<<"$1"; then
      echo "$word"
      return
    fi
  done
}

run() {
  check_joined "$hosts"
  case $(run_state) in
    unreachable) die "Not all $hosts hosts of $name answer." ;;
    bare) die "The hosts are not set up: $0 setup --name=$name does it." ;;
    running) die "A command runs already: $0 logs --name=$name shows it, $0 stop ends it." ;;
  esac
  on_worker all start "${command[@]}"
  say "Started on all hosts: $(quoted "${command[@]}")"
}

status() {
  local lines word code host
  lines=$(reports)
  { grep '^state=' <<<"$lines" || true; } | sort -k 3 | while read -r word code host; do
    echo "${host#host=}: ${word#state=}, exit code ${code#code=}"
  done
  say "$name, ${kind#a }, $hosts hosts: $(summary "$lines")"
}

logs() {
  local number
  if [[ -z $to ]]; then
    on_worker "$worker" log "$lines" ${follow:+follow}
    return
  fi
  call mkdir -p "$to"
  for ((number = 0; number < hosts; number++)); do
    reach "$number"
    tpus "$resource" scp "$name:cdd-run/log.txt" "$to/worker_$number.txt" "${at[@]}" --quiet
  done
  say "Copied the log of every host to $to."
}

watch() {
  local restarts=0 silent=0 failed=0 found before=''
  while true; do
    found=$(look)
    if [[ $found != "$before" ]]; then say "$name: $found"; fi
    before=$found
    case $found in
      finished) break ;;
      failed) failed=$((failed + 1)) ;; # Perhaps of a host that is gone, before its slice knows.
      unreachable | UNKNOWN) silent=$((silent + 1)) ;;
      *) failed=0 silent=0 ;;
    esac
    [[ $found != FAILED ]] || die "$name: $(why_failed)"
    [[ $found != busy ]] || die "Another command runs there: $0 stop --name=$name ends it."
    [[ $failed -lt 2 ]] || give_up 'The command failed; the last lines of its logs are above.'
    [[ $silent -lt 30 ]] || give_up 'There was no answer 30 times in a row.'
    case $found in
      NONE | taken | bare | none | lost | stopped)
        [[ $begun$found =~ ^(NONE|bare|none)$ ]] || restarts=$((restarts + 1))
        [[ $restarts -le $max_restarts ]] || give_up "It began again $max_restarts times."
        begin "$found" || [[ -n $begun ]] || exit 1
        begun=finished # Which --dry_run takes it for from here on.
        ;;
    esac
    [[ -n $dry_run ]] || sleep "$interval"
  done
  say "Finished; begun again $restarts times."
  if [[ -n $delete_when_done ]]; then
    bucket=''
    delete
  else
    say "$name is still there and costs money: $0 delete --name=$name"
  fi
}

# How it stands, in a word: the slice's state, or the command's where the slice is there.
look() {
  local now node assumed=NONE
  [[ -z $begun ]] || assumed=ACTIVE
  now=$(state "$assumed")
  case $now in
    SUSPENDED) now=taken ;;
    ACTIVE)
      node=$(node_state)
      case $node in
        READY) now=$(run_state) ;;
        PREEMPTED | TERMINATED | STOPPED | NONE) now=taken ;;
        *) now=$node ;;
      esac
      ;;
  esac
  echo "$now"
}

# Begins with what is missing: the slice, what its hosts need, or the command. Each part is a
# command of its own, so that one that fails does not end the watch.
begin() {
  case $1 in
    taken | NONE)
      { [[ $1 == NONE ]] || tpus queued-resources delete "$name" --force --quiet; } &&
        itself create "$common $creates" 'spot reserved' &&
        itself setup "$common $sets_up" ''
      ;;
    bare) itself setup "$common $sets_up" '' ;;
  esac && itself run "$common" '' -- "${command[@]}"
}

# itself ACTION VALUED SWITCHES [ARGUMENTS...]: another command of this script, with these flags.
itself() {
  local action=$1 valued=$2 switches="$3 dry_run" flags=() flag
  shift 3
  for flag in $valued; do
    [[ -z ${!flag} ]] || flags+=("--$flag=${!flag}")
  done
  for flag in $switches; do
    [[ -z ${!flag} ]] || flags+=("--$flag")
  done
  DRY_RUN_TYPE="$accelerator $slices" bash "$0" "$action" "${flags[@]}" "$@"
}

give_up() {
  on_worker all log 20 || true
  die "$* $name is still there and costs money: $0 delete --name=$name"
}

name='' zone='' project='' type='' spot='' reserved='' network='' subnetwork='' service_account=''
wait='' bucket='' extras=tpu,gcs python=3.12 worker=0 lines=100 follow='' to=''
max_restarts=20 delete_when_done='' interval=60 hosts=1
begun='' # Set once `watch` has begun something.
common='name zone project' creates='type slices network subnetwork service_account wait interval'
sets_up='bucket extras python'
action=${1:-}
shift || true
case $action in
  create) parse "$common $creates" 'spot reserved' "$@" ;;
  setup) parse "$common $sets_up" '' "$@" ;;
  run | status) parse "$common" '' "$@" ;;
  logs) parse "$common worker lines to" follow "$@" ;;
  stop) parse "$common wait" '' "$@" ;;
  watch) parse "$common $creates $sets_up max_restarts" 'spot reserved delete_when_done' "$@" ;;
  delete) parse "$common bucket" '' "$@" ;;
  --help) help && exit 0 ;;
  *) usage "Unknown command '$action'; choose among create, setup, run, status, logs, stop, watch and delete." ;;
esac
required name
place=(${project:+"--project=$project"} ${zone:+"--zone=$zone"})
case $action in
  run | watch) [[ ${#command[@]} -gt 0 ]] || usage 'The command to run is missing; it follows --.' ;;
  *) [[ ${#command[@]} -eq 0 ]] || usage "$action runs no command, but one follows --." ;;
esac
case $action in
  create | watch) required type && wait=${wait:-1440}
    count_slices
    all_slices "$type"
    ;;
  stop) wait=${wait:-10} ;;
esac
[[ $worker == all ]] || numbers worker
numbers lines interval max_restarts ${wait:+wait}
needs gcloud git tar
case $action in
  setup | run | status | logs | stop) slice_there ;;
  watch) check_joined "$hosts" ;;
esac
case $action in
  stop) on_worker all stop "$((wait * 60))" ;;
  *) "$action" ;;
esac
