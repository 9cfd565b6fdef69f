# shellcheck shell=bash disable=SC2154
# The slices of launch/tpu.sh as a resource of Google Cloud: their state, how they are made and
# deleted, and how their hosts are reached. Sourced, with the flags of that script as variables.

# What a queued resource is of: the type of its slices and, by either version of Google's interface,
# the number of several.
SHAPE='tpu.nodeSpec[0].node.acceleratorType'
SHAPE+=',tpu.nodeSpec[0].multisliceParams.nodeCount,tpu.nodeSpec[0].multiNodeParams.nodeCount'

# gcloud compute tpus, for this project and zone.
tpus() {
  call gcloud compute tpus "$@" ${place[@]+"${place[@]}"}
}

# A question about a resource, answered by NONE if there is no such resource and by UNKNOWN, with
# what gcloud said, if there is no answer.
asked() {
  local answer said
  said=$(mktemp)
  if answer=$(ask "$@" ${place[@]+"${place[@]}"} 2>"$said"); then
    echo "${answer:-UNKNOWN}"
  elif grep -q 'NOT_FOUND\|was not found' "$said"; then
    echo NONE
  else
    cat "$said" >&2
    echo UNKNOWN
  fi
  rm -f "$said"
}

# field ANSWER FIELD: of the queued resource; ANSWER is what --dry_run takes for it.
field() {
  asked "$1" gcloud compute tpus queued-resources describe "$name" --format="value($2)"
}

# The states that Google documents: WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDING, ...
state() {
  field "${1:-ACTIVE}" state.state
}

# Of the TPU itself: READY, PREEMPTED, REPAIRING, ... Of several slices, the first that is not READY.
node_state() {
  local number node word
  for ((number = 0; number < slices; number++)); do
    node=$name
    [[ $slices == 1 ]] || node+=-$number
    word=$(asked READY gcloud compute tpus tpu-vm describe "$node" --format='value(state)')
    [[ $word == READY ]] || break
  done
  echo "$word"
}

why_failed() {
  field 'the reason' state.failedData.error.message
}

# reach WORKER: sets how gcloud reaches a host, or all. The hosts of several slices are numbered one
# slice after the other, as jax numbers their processes.
reach() {
  resource=tpu-vm at=("--worker=$1")
  if [[ $slices -gt 1 ]]; then
    resource=queued-resources at=("--node=$1" "--worker=$1")
    [[ $1 == all ]] || at=("--node=$(($1 / each))" "--worker=$(($1 % each))")
  fi
}

# on WORKERS COMMAND...: runs a command on hosts, as these arguments and no others.
on() {
  reach "$1"
  shift
  tpus "$resource" ssh "$name" "${at[@]}" --command="$(quoted "$@")" --quiet
}

on_worker() {
  local workers=$1
  shift
  on "$workers" bash cdd/launch/worker.sh "$@"
}

create() {
  local there has count node=("--node-id=$name")
  [[ $slices == 1 ]] || node=("--node-count=$slices" "--node-prefix=$name")
  there=$(state NONE)
  case $there in
    NONE)
      tpus queued-resources create "$name" "${node[@]}" --accelerator-type="$accelerator" \
        --runtime-version="$runtime" ${spot:+--spot} ${reserved:+--reserved} \
        ${network:+"--network=$network"} ${subnetwork:+"--subnetwork=$subnetwork"} \
        ${service_account:+"--service-account=$service_account"} --quiet
      ;;
    UNKNOWN) die "gcloud does not say whether $name is there." ;;
    FAILED) die "$name is there, FAILED; delete it first, $0 delete --name=$name. $(why_failed)" ;;
    SUSPEND* | DELETING) die "$name is there, $there; delete it first, $0 delete --name=$name." ;;
    *)
      read -r has count <<<"$(field "$accelerator $slices" "$SHAPE")"
      has=$(told "${count:-1}" "$has")
      [[ $has == "$kind" ]] || die "$name is there, but it is $has, not $kind."
      say "$name is there already."
      ;;
  esac
  wait_until_active
}

wait_until_active() {
  local now='' before='' minutes=0 began=$SECONDS
  while true; do
    now=$(state)
    minutes=$(((SECONDS - began) / 60))
    if [[ $now != "$before" ]]; then say "$name is $now."; fi
    before=$now
    case $now in
      ACTIVE) return ;;
      FAILED) die "$name: $(why_failed)" ;;
      SUSPENDED) die "$name was taken away before it was used." ;;
      NONE) die "$name is gone." ;;
    esac
    [[ $minutes -lt $wait ]] || die "$name is $now after $minutes minutes. It stays in the queue," \
      "and costs money once it is ACTIVE: the same command waits on, $0 delete --name=$name ends it."
    sleep "$interval"
  done
}

# told SLICES TYPE: in words.
told() {
  if [[ $1 == 1 ]]; then echo "a $2"; else echo "$1 slices of $2"; fi
}

# Sets what accelerators.txt says of a type, of all slices together; `each` are the hosts of one.
all_slices() {
  slice "$1"
  kind=$(told "$slices" "$accelerator")
  each=$hosts
  chips=$((chips * slices)) hosts=$((hosts * slices))
}

# Sets the same of what is there; --dry_run takes it for a v5litepod-16, or for what `watch` is to
# make.
slice_there() {
  local has count
  read -r has count <<<"$(field "${DRY_RUN_TYPE:-v5litepod-16}" "$SHAPE")"
  case $has in
    NONE) die "There is no $name here: $0 create --name=$name makes it." ;;
    UNKNOWN) die "gcloud does not say what $name is." ;;
  esac
  slices=${count:-1}
  all_slices "$has"
}

delete() {
  local there left unknown='?unknown'
  there=$(state)
  [[ $there != UNKNOWN ]] || die "gcloud does not say whether $name is there."
  if [[ $there == NONE && $(node_state) == NONE ]]; then
    say "There is no $name here."
  elif [[ $there == NONE ]]; then
    tpus tpu-vm delete "$name" --quiet
  else
    tpus queued-resources delete "$name" --force --quiet
  fi
  if [[ -n $bucket ]]; then
    call gcloud storage rm --recursive "gs://$bucket" --quiet ${project:+"--project=$project"}
  fi
  left=$(
    listed compute tpus queued-resources list --format='value(name)' ${place[@]+"${place[@]}"}
    listed compute tpus tpu-vm list --format='value(name)' ${place[@]+"${place[@]}"}
    listed storage buckets list --format='value(storage_url)' ${project:+"--project=$project"}
  )
  [[ $left != *"$unknown"* ]] || die 'gcloud does not say what is left: look at the console.'
  if [[ -n $left ]]; then
    say 'Left in this zone, and buckets of this project; each may cost money:'
    echo "$left"
  else
    say 'No TPU is left in this zone, and no bucket in this project.'
  fi
}

# What gcloud lists, each on a line of its own.
listed() {
  local found line
  found=$(ask '' gcloud "$@") || found=$unknown
  while read -r line; do
    [[ -z $line ]] || echo "  $line"
  done <<<"$found"
}
