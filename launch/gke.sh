#!/usr/bin/env bash
# Runs cdd on TPU slices of a Kubernetes cluster, as a JobSet; launch/README.md has an example.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

JOBSET=https://github.com/kubernetes-sigs/jobset/releases/download/v0.12.0/manifests.yaml

help() {
  cat <<'TEXT'
launch/gke.sh COMMAND [FLAGS] [-- COMMAND TO RUN]

  cluster  makes a cluster with JobSet and the slices' nodes, or adds to one what it lacks
  image    builds the image of this checkout in Cloud Build, and stores it
  run      starts the command after -- on every host of the slices, as a JobSet
  status   the JobSet and its pods
  logs     what it printed
  stop     has it save and end, and deletes the JobSet
  delete   deletes the cluster with its nodes, and lists what is left

Flags of all commands:
  --dry_run          prints every command that would change something or ask, and runs none
  --help             prints this
cluster, delete:
  --cluster=NAME     of the cluster
  --zone=ZONE        of the cluster and its nodes
  --project=PROJECT  that they belong to
cluster, run:
  --type=TYPE        such as v5litepod-16, or v5e:4x4 by its shape (accelerators.txt)
  --slices=N         of this type, for one run over all of them; 1
  --spot             nodes that are cheaper, and taken away at any time
  --bucket=NAME      which the pods may read and write, and in which they find it at /bucket
image, run:
  --image=IMAGE      such as us-west4-docker.pkg.dev/PROJECT/cdd/cdd:1
image:
  --project=PROJECT  whose Cloud Build is used
run, status, logs, stop:
  --name=NAME        of the JobSet
run:
  --max_restarts=N   after failures; 3. Preemptions do not count
  --grace=SECONDS    for saving when the pods are told to end; 300
logs:
  --worker=N         of this host of every slice; 0. Or all: of all hosts
  --lines=N          how many of the last lines; 100
  --follow           prints what is added, until Ctrl-C
TEXT
}

# Whether gcloud container ... describe finds it; --dry_run takes it for missing.
there() {
  local said
  [[ -n $(ask '' gcloud container "$@" --format='value(name)' 2>/dev/null || true) ]] && return
  [[ -z $dry_run ]] || return
  said=$(gcloud container "$@" 2>&1 >/dev/null) && return
  grep -qi 'NOT_FOUND\|not found' <<<"$said" || die "$said"
  return 1
}

cluster() {
  local at=(--location="$zone" --project="$project") shape=() number pool
  [[ $hosts == 1 ]] || shape=("--tpu-topology=$topology")
  if there clusters describe "$cluster" "${at[@]}"; then
    say "The cluster $cluster is there already."
  else
    call gcloud container clusters create "$cluster" "${at[@]}" --num-nodes=1 \
      --machine-type=e2-standard-4 --release-channel=regular --addons=GcsFuseCsiDriver \
      --workload-pool="$project.svc.id.goog" --quiet
  fi
  for ((number = 1; number <= slices; number++)); do # Nodes of one pool are one slice.
    pool=$accelerator
    [[ $number == 1 ]] || pool+=-$number
    if there node-pools describe "$pool" --cluster="$cluster" "${at[@]}"; then
      say "Its nodes $pool are there already."
    else
      call gcloud container node-pools create "$pool" --cluster="$cluster" "${at[@]}" \
        --node-locations="$zone" --machine-type="$machine" --num-nodes="$hosts" \
        ${shape[@]+"${shape[@]}"} ${spot:+--spot} --quiet
    fi
  done
  if [[ -n $bucket ]]; then
    number=$(ask 123456789 gcloud projects describe "$project" --format='value(projectNumber)')
    call gcloud storage buckets add-iam-policy-binding "gs://$bucket" \
      --role=roles/storage.objectUser --member="principal://iam.googleapis.com/projects/$number/\
locations/global/workloadIdentityPools/$project.svc.id.goog/subject/ns/default/sa/default" --quiet
  fi
  call gcloud container clusters get-credentials "$cluster" "${at[@]}"
  call kubectl apply --server-side --filename="$JOBSET"
}

image() {
  call gcloud builds submit "$launch/.." --config="$launch/cloudbuild.yaml" \
    --substitutions=_IMAGE="$image" ${project:+"--project=$project"} --quiet
}

run() {
  check_joined "$((hosts * slices))"
  [[ "${command[*]}" != *$'\n'* ]] || usage 'The command has a line break in it.'
  if [[ -n $dry_run ]]; then
    echo "kubectl create --filename=- <<'YAML'" >&3
    manifest >&3
    echo 'YAML' >&3
  else
    manifest | kubectl create --filename=- ||
      die "$name was not started. If it is there already, '$0 stop --name=$name' ends it."
  fi
}

# A text of one line as JSON, and so as YAML.
json() {
  printf '"%s"' "$(sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' <<<"$1")"
}

# Arguments as a list. Kubernetes makes $ of $$, and would make the value of NAME of $(NAME).
list() {
  local item comma=''
  for item in "$@"; do
    printf '%s' "$comma" && json "${item//\$/\$\$}"
    comma=', '
  done
}

# The JobSet: one job to a slice, of one pod to a host. Exit code 75 says that a run was saved and goes on with the same
# command, 143 that SIGTERM ended it; they and preemptions restart it, other failures up to
# --max_restarts times. Whatever another host wrote to the bucket is seen at once.
manifest() {
  local several=''
  [[ $slices == 1 ]] || several=1
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $(json "$name")
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
$(only_with "$several" '  coordinator: {replicatedJob: slice, jobIndex: 0, podIndex: 0}')
  failurePolicy:
    maxRestarts: $max_restarts
    rules:
      - name: Resumes
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: $slices
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onPodConditions: [{type: DisruptionTarget, status: "True"}]
              - action: FailJob
                onExitCodes: {containerName: cdd, operator: In, values: [75, 143]}
          template:
$(only_with "$bucket" '            metadata: {annotations: {gke-gcsfuse/volumes: "true"}}')
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $grace
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $label
                cloud.google.com/gke-tpu-topology: $topology
$(only_with "$spot" '                cloud.google.com/gke-spot: "true"')
              containers:
                - name: cdd
                  image: $(json "$image")
                  command: [$(list "${command[@]}")]
                  env:
                    - {name: PYTHONUNBUFFERED, value: "1"}
                    - {name: TQDM_MININTERVAL, value: "30"}
$(only_with "$several" "$(megascale)")
                  resources:
                    requests: {google.com/tpu: $((chips / hosts))}
                    limits: {google.com/tpu: $((chips / hosts))}
                  volumeMounts:
                    - {name: memory, mountPath: /dev/shm}
$(only_with "$bucket" '                    - {name: bucket, mountPath: /bucket}')
              volumes:
                - name: memory
                  emptyDir: {medium: Memory}
$(only_with "$bucket" "$(volume)")
YAML
}

# only_with CONDITION LINES: the lines if the condition is not empty.
only_with() {
  if [[ -n $1 ]]; then printf '%s' "$2"; fi
}

# What jax and libtpu read of several slices, from what JobSet writes on every pod.
megascale() {
  cat <<YAML
                    - {name: MEGASCALE_NUM_SLICES, value: "$slices"}
                    - name: MEGASCALE_SLICE_ID
                      valueFrom: {fieldRef: {fieldPath: "metadata.annotations['jobset.sigs.k8s.io/job-index']"}}
                    - name: MEGASCALE_COORDINATOR_ADDRESS
                      valueFrom: {fieldRef: {fieldPath: "metadata.annotations['jobset.sigs.k8s.io/coordinator']"}}
YAML
}

volume() {
  cat <<YAML
                - name: bucket
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $(json "$bucket")
                      mountOptions: implicit-dirs,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0
YAML
}

status() {
  call kubectl get jobsets "$name"
  call kubectl get pods --selector="jobset.sigs.k8s.io/jobset-name=$name" --output=wide
}

logs() {
  local selector=jobset.sigs.k8s.io/jobset-name=$name
  [[ $worker == all ]] || selector+=,batch.kubernetes.io/job-completion-index=$worker
  call kubectl logs --selector="$selector" --container=cdd --prefix --tail="$lines" \
    --max-log-requests=64 ${follow:+--follow}
}

stop() {
  call kubectl delete jobsets "$name"
}

delete() {
  local left
  call gcloud container clusters delete "$cluster" --location="$zone" --project="$project" --quiet
  left=$(ask '' gcloud container clusters list --project="$project" --format='value(name)')
  say "Clusters left in this project: ${left:-none}."
}

cluster='' zone='' project='' type='' spot='' bucket='' image='' name='' max_restarts=3 grace=300
worker=0 lines=100 follow=''
action=${1:-}
shift || true
case $action in
  cluster)
    parse 'cluster zone project type slices bucket' spot "$@"
    required cluster zone project type
    ;;
  image)
    parse 'image project' '' "$@"
    required image
    ;;
  run)
    parse 'name type slices bucket image max_restarts grace' spot "$@"
    required name type image
    [[ ${#command[@]} -gt 0 ]] || usage 'The command to run is missing; it follows --.'
    ;;
  status | stop)
    parse name '' "$@"
    required name
    ;;
  logs)
    parse 'name worker lines' follow "$@"
    required name
    ;;
  delete)
    parse 'cluster zone project' '' "$@"
    required cluster zone project
    ;;
  --help) help && exit 0 ;;
  *) usage "Unknown command '$action'; choose among cluster, image, run, status, logs, stop and delete." ;;
esac
[[ $action == run || ${#command[@]} -eq 0 ]] || usage "$action runs no command, but one follows --."
[[ -z $type ]] || slice "$type"
count_slices
# The name of the first host, NAME-slice-0-0.NAME, is a label too.
[[ $slices == 1 || ${#name} -le 26 ]] || usage "With --slices, --name has at most 26 letters."
[[ $slices == 1 || $hosts -gt 1 ]] || usage "GKE joins slices of several hosts each, not $accelerator."
[[ $worker == all ]] || numbers worker
numbers max_restarts grace lines
case $action in
  image) needs gcloud ;;
  cluster | delete) needs gcloud kubectl ;;
  *) needs kubectl ;;
esac
"$action"
