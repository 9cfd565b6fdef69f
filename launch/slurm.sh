#!/usr/bin/env bash
# Runs cdd on the GPUs of a Slurm cluster; launch/README.md has an example.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

help() {
  cat <<'TEXT'
launch/slurm.sh COMMAND [FLAGS] [-- COMMAND TO RUN]

  run     submits the command after --, to be run as one process per GPU, and prints its job
  status  the job and how often it was started
  logs    what process 0 printed
  stop    has the job save and end, without being run again

Flags of all commands:
  --logs=FOLDER          of the logs; runs/slurm below the working folder
  --dry_run              prints every command that would change something or ask, and runs none
  --help                 prints this
run:
  --name=NAME            of the job; cdd
  --nodes=N              hosts; 1
  --gpus=N               GPUs of each host; 8
  --cpus=N               CPU cores of each GPU's process; 8
  --time=TIME            limit, such as 12:00:00; when it is reached the job is run again
  --partition=NAME       of the cluster
  --account=NAME         that pays
status, logs, stop:
  --job=NUMBER           as `run` printed it
logs:
  --task=N               of this process; 0
  --lines=N              how many of the last lines; 100
  --follow               prints what is added, until Ctrl-C

Every other option of sbatch is taken from the environment, such as SBATCH_QOS=high. A virtual
environment in .venv of the working folder is used if there is one.
TEXT
}

run() {
  check_joined "$((nodes * gpus))"
  [[ $logs != *,* ]] || usage "--logs=$logs has a comma, which sbatch splits at."
  call mkdir -p "$logs"
  call sbatch --parsable --job-name="$name" --export=ALL,CDD_LOGS="$logs" \
    --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus" --cpus-per-task="$cpus" \
    ${time:+"--time=$time"} ${partition:+"--partition=$partition"} ${account:+"--account=$account"} \
    --output="$logs/%x_%j.txt" "$launch/job.sbatch" "${command[@]}"
}

status() {
  call squeue --jobs="$job" --states=all --format='%i %j %T, restarted %R' || true
  call tail -n 3 "$logs"/*_"$job".txt
}

show() {
  call tail -n "$lines" ${follow:+-F} "$logs"/*_"${job}_task_$task".txt
}

# Without being run again; the second line sends SIGTERM to the processes alone, which save.
stop() {
  call scontrol update JobId="$job" Requeue=0
  call scancel --signal=TERM "$job"
}

name=cdd nodes=1 gpus=8 cpus=8 time='' partition='' account='' job='' task=0 lines=100 follow=''
logs=$PWD/runs/slurm
action=${1:-}
shift || true
case $action in
  run)
    parse 'logs name nodes gpus cpus time partition account' '' "$@"
    [[ ${#command[@]} -gt 0 ]] || usage 'The command to run is missing; it follows --.'
    ;;
  status | stop) parse 'logs job' '' "$@" ;;
  logs) parse 'logs job task lines' follow "$@" ;;
  --help) help && exit 0 ;;
  *) usage "Unknown command '$action'; choose among run, status, logs and stop." ;;
esac
numbers nodes gpus cpus task lines
if [[ $action != run ]]; then
  [[ ${#command[@]} -eq 0 ]] || usage "$action runs no command, but one follows --."
  required job
  numbers job
fi
case $action in
  run) needs sbatch && run ;;
  status) needs squeue && status ;;
  logs) show ;;
  stop) needs scontrol scancel && stop ;;
esac
