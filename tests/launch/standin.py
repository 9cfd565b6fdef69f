"""Stands in for gcloud, kubectl, Slurm's programs and what the launchers call on a host.

Run as `standin.py PROGRAM ARGUMENTS...` with a folder in $STANDIN, it adds the call to calls.jsonl
there, refuses a flag that the real program does not take (flags.txt), and plays a small part of
what that does: the slices are the folder `slice`, with a home for each of their hosts, in which
commands really run. Files in the folder script it: queue, the states before ACTIVE; refused, what
is said of a new slice; train, what `python -m` runs on a host; slice/taken, that the slice was
preempted.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ['STANDIN'])
HERE = Path(__file__).parent
TABLE = HERE.parents[1] / 'launch' / 'accelerators.txt'
SLICE = FOLDER / 'slice'


def flags() -> dict[str, list[str]]:
  """Program or command of it -> its flags, with = after those that take a value."""
  text = re.sub(r'\n  ', ' ', (HERE / 'flags.txt').read_text())
  lines = (line.partition(':') for line in text.splitlines() if not line.startswith('#'))
  return {name: listed.split() for name, _, listed in lines}


def parse(program: str, words: list[str]) -> tuple[str, list[str], dict[str, str]]:
  """(the command, its positional arguments, its flags); ends as the real program on a wrong one."""
  known = flags()
  command = program
  for count in range(len(words), 0, -1):
    if ' '.join([program, *words[:count]]) in known:
      command, words = ' '.join([program, *words[:count]]), words[count:]
      break
  else:
    if program in ('gcloud', 'kubectl'):
      fail(f'ERROR: Invalid choice: {words}', 2)
  taken = {*known[program], *known[command]}
  places, given = [], {}
  while words and not (program in ('sbatch', 'srun') and places):
    word = words.pop(0)
    if not word.startswith('-'):
      places.append(word)
      continue
    name, equals, value = word.partition('=')
    name = name.removeprefix('--')
    if f'{name}=' not in taken and (name not in taken or equals):
      fail(f'ERROR: ({command}) unrecognized arguments: {word}', 2)
    if f'{name}=' in taken and not equals:
      value = words.pop(0)
    given[name] = value
  return command, [*places, *words], given


def fail(message: str, code: int = 1) -> None:
  print(message, file=sys.stderr)
  sys.exit(code)


def record(*call: str, **more) -> None:
  with open(FOLDER / 'calls.jsonl', 'a') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(json.dumps(dict(call=call, **more)) + '\n')


def read(name: str, default: str = '') -> str:
  path = FOLDER / name
  return path.read_text().strip() if path.exists() else default


# --- gcloud


def gcloud(words: list[str]) -> None:
  command, places, given = parse('gcloud', words)
  action = command.removeprefix('gcloud ').replace('compute tpus ', '')
  if action.startswith(('queued-resources', 'tpu-vm')):
    tpus(action, places, given)
  elif action in ('container clusters describe', 'container node-pools describe'):
    if not (FOLDER / action.split()[1] / places[0]).exists():
      fail(f'ERROR: ResponseError: code=404, message=Not found: {places[0]}.')
    print(places[0])
  elif action in ('container clusters create', 'container node-pools create'):
    (FOLDER / action.split()[1] / places[0]).mkdir(parents=True)
  elif action == 'container clusters delete':
    (FOLDER / 'clusters' / places[0]).rmdir()
  elif action == 'container clusters list':
    print('\n'.join(path.name for path in (FOLDER / 'clusters').glob('*')))
  elif action == 'projects describe':
    print(123456789012)
  elif action == 'storage buckets create':
    (FOLDER / 'buckets' / places[0].removeprefix('gs://')).mkdir(parents=True)
  elif action == 'storage rm':
    (FOLDER / 'buckets' / places[0].removeprefix('gs://')).rmdir()
  elif action == 'storage buckets list':
    print('\n'.join(f'gs://{path.name}/' for path in (FOLDER / 'buckets').glob('*')))


def tpus(action: str, places: list[str], given: dict[str, str]) -> None:
  kind, verb = action.split()
  if read('offline'):
    fail('ERROR: gcloud crashed (ConnectionError): there is no network')
  if verb == 'list':
    print(read('slice/name') if SLICE.exists() else '')
  elif action == 'queued-resources create':
    create(places[0], given)
  elif not SLICE.exists():
    fail(f'ERROR: (gcloud.compute.tpus.{kind}.{verb}) NOT_FOUND: Resource was not found')
  elif verb == 'delete':
    end_processes()
    shutil.rmtree(SLICE)
  elif verb == 'describe':
    print(described(kind, places[0], given['format']))
  elif verb == 'ssh':
    ssh(given)
  elif verb == 'scp':
    scp(*places, given)


def create(name: str, given: dict[str, str]) -> None:
  if SLICE.exists():
    fail('ERROR: (gcloud.compute.tpus.queued-resources.create) ALREADY_EXISTS')
  if refused := read('refused'):
    fail(f'ERROR: (gcloud.compute.tpus.queued-resources.create) {refused}')
  rows = [line.split() for line in TABLE.read_text().splitlines() if not line.startswith('#')]
  (row,) = [row for row in rows if row[0] == given['accelerator-type']]
  count = int(given.get('node-count', 1))
  node = 'node-id' if count == 1 else 'node-prefix'
  assert given['runtime-version'] == row[4] and given[node] == name
  SLICE.mkdir()
  chips, hosts = (count * int(row[place]) for place in (2, 3))
  fields = dict(name=name, type=row[0], slices=count, chips=chips, hosts=hosts)
  for key, value in fields.items():
    (SLICE / key).write_text(str(value))
  (SLICE / 'queue').write_text(read('queue', 'WAITING_FOR_RESOURCES PROVISIONING'))
  for number in range(hosts):
    (SLICE / f'w{number}').mkdir()


def described(kind: str, name: str, field: str) -> str:
  taken = (SLICE / 'taken').exists()
  count, whole = int(read('slice/slices')), read('slice/name')
  if kind == 'tpu-vm':
    assert name in ([whole] if count == 1 else [f'{whole}-{number}' for number in range(count)])
    return 'PREEMPTED' if taken else read('slice/node', 'READY')
  if 'acceleratorType' in field:
    return read('slice/type') + (f'\t\t{count}' if count > 1 else '')
  if 'failedData' in field:
    return read('reason')
  if taken:
    return 'SUSPENDED'
  state, _, rest = read('slice/queue').partition(' ')
  if rest or state not in ('FAILED',):
    (SLICE / 'queue').write_text(rest)
  return state or 'ACTIVE'


def hosts(given: dict[str, str]) -> list[int]:
  """Those of --worker, and with several slices of --node, which are numbered one after another."""
  slices, total = int(read('slice/slices')), int(read('slice/hosts'))
  assert ('node' in given) == (slices > 1)
  each, node = total // slices, given.get('node', '0')
  nodes = range(slices) if node == 'all' else [int(node)]
  workers = range(each) if given['worker'] == 'all' else [int(given['worker'])]
  return [each * node + worker for node in nodes for worker in workers]


def ssh(given: dict[str, str]) -> None:
  """Runs the command on hosts, at once, as sshd does: by the user's shell, in their home."""
  if (SLICE / 'taken').exists():
    fail('ERROR: The TPU is in state "PREEMPTED" and cannot be reached')
  running = [
    subprocess.Popen(['bash', '-c', given['command']], **at(number)) for number in hosts(given)
  ]
  codes = [process.wait() for process in running]
  sys.exit(next((code for code in codes if code), 0))


def at(number: int) -> dict:
  """A process on a host: nothing of this computer's environment but what a login sets."""
  home = SLICE / f'w{number}'
  environment = dict(
    HOME=str(home),
    PATH=f'{FOLDER / "host"}:/usr/bin:/bin',
    STANDIN=str(FOLDER),
    HOST=f'w-{number}',
    CHIPS=read('seen', read('slice/chips')),
    HOSTS=read('slice/hosts'),
    SLICES=read('slice/slices'),
    INDEX=str(number),
  )
  return dict(cwd=home, env=environment, stdin=subprocess.DEVNULL)


def scp(source: str, target: str, given: dict[str, str]) -> None:
  for number in hosts(given):
    home = SLICE / f'w{number}'
    if ':' in target:
      shutil.copy(source, home / (target.partition(':')[2] or Path(source).name))
    else:
      shutil.copy(home / source.partition(':')[2], target)


def end_processes() -> None:
  """What runs on the hosts ends with them."""
  for file in SLICE.glob('w*/cdd-run/[pc]*d'):
    if file.name in ('pid', 'child'):
      with contextlib.suppress(ProcessLookupError):
        os.kill(int(file.read_text().split()[0]), signal.SIGKILL)


# --- Kubernetes and Slurm


def kubectl(words: list[str]) -> None:
  command, _, given = parse('kubectl', words)
  if command == 'kubectl create' and given['filename'] == '-':
    (FOLDER / 'manifest.yaml').write_text(sys.stdin.read())


def sbatch(words: list[str]) -> None:
  parse('sbatch', words)
  print(4242)


def srun(words: list[str]) -> None:
  """Runs the tasks of a job at once, on this computer; ends as the worst of them."""
  _, command, given = parse('srun', words)
  count = int(os.environ['SLURM_NTASKS'])
  tasks = []
  for number in range(count):
    path = given['output'].replace('%x', 'cdd').replace('%j', os.environ['SLURM_JOB_ID'])
    with open(path.replace('%t', str(number)), 'a') as log:
      step = dict(SLURM_PROCID=str(number), SLURM_LOCALID=str(number))
      step |= dict(SLURM_STEP_NODELIST='localhost', SLURM_STEP_NUM_NODES='1')
      tasks.append(subprocess.Popen(command, env={**os.environ, **step}, stdout=log, stderr=log))
  sys.exit(max(task.wait() % 256 for task in tasks))


def squeue(words: list[str]) -> None:
  parse('squeue', words)
  print(read('job', 'RUNNING'))


def scancel(words: list[str]) -> None:
  parse('scancel', words)


# --- What stands on a host


def curl(words: list[str]) -> None:
  """The installer of uv is a script that puts it into the home."""
  if 'uv/install.sh' in words[-1]:
    print('mkdir -p ~/.local/bin && cp "$STANDIN/host/uv" ~/.local/bin/uv')


def uv(words: list[str]) -> None:
  if words[0] == 'venv':
    folder = Path(words[-1]) / 'bin'
    folder.mkdir(parents=True)
    shutil.copy(FOLDER / 'host' / 'python', folder / 'python')


def python(words: list[str]) -> None:
  """Code runs, with a jax that counts the chips of the slice; modules are what `train` says."""
  train = FOLDER / 'train'
  if words[0] == '-m' and train.exists():
    os.execv(train, [train, *words])
  if words[0] == '-m':
    return
  os.execve(
    sys.executable,
    [sys.executable, *words],
    dict(os.environ, PYTHONPATH=str(HERE / 'jax_on_a_slice')),
  )


def gcsfuse(words: list[str]) -> None:
  (Path.home() / 'mounted').write_text(words[-2])


def main() -> None:
  program, *words = sys.argv[1:]
  more = dict(host=os.environ['HOST']) if 'HOST' in os.environ else {}
  record(program, *words, **more)
  if play := globals().get(program):
    play(words)


if __name__ == '__main__':
  main()
