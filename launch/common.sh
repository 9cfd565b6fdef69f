# shellcheck shell=bash
# What the launchers share: flags, one-line errors, --dry_run, quoting, and the table of TPU slices.
# Sourced, never run. Written for bash 3.2, which macOS has.

launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command=() # What stands after --.
dry_run=''
slices=1
exec 3>&1 # Where --dry_run prints, also from within $(...).

die() {
  echo "error: $*" >&2
  exit 1
}

# A mistake in what was typed.
usage() {
  echo "error: $* See $0 --help." >&2
  exit 2
}

say() {
  if [[ -n $dry_run ]]; then echo "# $*" >&3; else echo "[$(date +%H:%M:%S)] $*"; fi
}

# parse VALUED SWITCHES ARGUMENTS...: --flag=value or --flag value sets the variable of that name,
# a switch sets it to 1, and what stands after -- becomes `command`.
parse() {
  local valued=" $1 " switches=" $2 dry_run " flag value
  shift 2
  while [[ $# -gt 0 ]]; do
    case $1 in
      --) shift && command=("$@") && return ;;
      --help) help && exit 0 ;;
      --?*) flag=${1%%=*} && flag=${flag#--} && flag=${flag//-/_} ;;
      *) usage "Unexpected argument '$1': flags start with --, and the command to run follows ' -- '." ;;
    esac
    if [[ $switches == *" $flag "* ]]; then
      [[ $1 != *=* ]] || usage "--$flag takes no value."
      value=1
    elif [[ $valued == *" $flag "* ]]; then
      if [[ $1 == *=* ]]; then
        value=${1#*=}
      else
        [[ $# -gt 1 && $2 != --* ]] || usage "--$flag needs a value."
        value=$2
        shift
      fi
      [[ -n $value ]] || usage "--$flag needs a value."
    else
      usage "Unknown flag --$flag; choose among$(sed -E 's/ +([^ ]+)/ --\1/g' <<<"$valued$switches"); or --help."
    fi
    printf -v "$flag" %s "$value"
    shift
  done
}

# Flags that must be there.
required() {
  local flag
  for flag in "$@"; do
    [[ -n ${!flag} ]] || usage "--$flag is needed."
  done
}

# Flags whose value must be a number, 0 or more.
numbers() {
  local flag
  for flag in "$@"; do
    [[ ${!flag} =~ ^[0-9]+$ ]] || usage "--$flag=${!flag} is not a number."
  done
}

# Arguments as one line that a shell reads back as the same arguments.
quoted() {
  local argument line='' plain='^[A-Za-z0-9_./:=,@%+-]+$' quote="'\\''"
  for argument in "$@"; do
    [[ $argument =~ $plain ]] || argument="'${argument//\'/$quote}'"
    line+=" $argument"
  done
  printf '%s\n' "${line:1}"
}

# Runs a command; --dry_run prints it.
call() {
  if [[ -n $dry_run ]]; then quoted "$@" >&3; else "$@"; fi
}

# ask ANSWER COMMAND...: the output of a command that changes nothing; --dry_run prints the command
# and takes ANSWER for its output.
ask() {
  local answer=$1
  shift
  if [[ -n $dry_run ]]; then
    echo "$(quoted "$@")  # say it prints: $answer" >&3
    echo "$answer"
  else
    "$@"
  fi
}

# Programs that must be here.
needs() {
  local program
  for program in "$@"; do
    [[ -n $dry_run ]] || command -v "$program" >/dev/null || die "$program is not installed."
  done
}

# shellcheck disable=SC2034 # All of them are for those who call it.
# Sets accelerator, topology, chips, hosts, runtime, label and machine for the slice named $1: by
# Google's name, v5litepod-16, or its shape, v5e:4x4; v5e-16 is taken for v5litepod-16.
slice() {
  local wanted=${1/#v5e-/v5litepod-} plan choices=''
  while read -r accelerator plan chips hosts runtime label machine; do
    [[ $accelerator != '#'* ]] || continue
    topology=${plan#*:}
    [[ $wanted != "$accelerator" && $wanted != "$plan" ]] || return 0
    choices+=", $accelerator"
  done <"$launch/accelerators.txt"
  usage "There is no TPU slice '$1' in launch/accelerators.txt; choose one of ${choices:2}, or" \
    "its shape, such as v5e:4x4."
}

# Refuses a --slices that is no number, or 0.
count_slices() {
  [[ $slices =~ ^[1-9][0-9]*$ ]] || usage "--slices=$slices is not a number from 1 on."
}

# check_joined PROCESSES: several processes of one training must join.
check_joined() {
  local words=" ${command[*]} "
  if [[ $1 -gt 1 && $words =~ \ cdd\.(main|prepare)\  && $words != *' --distributed '* ]]; then
    usage "$1 processes run this command: add --distributed to it, which joins them."
  fi
}
