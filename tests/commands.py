"""Command lines, many in one process, which imports the package once and forks for each."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

MODULES = (
  *('cdd.main', 'cdd.prepare', 'cdd.sample', 'cdd.convert', 'cdd.plan'),
  *('cdd.evaluate', 'cdd.compare'),
)


class Done(NamedTuple):
  """How a command ended."""

  code: int
  out: str
  err: str


def run(lines, *, cwd: Path) -> list[Done]:
  """Runs `python -m MODULE ARGUMENTS...` for each [MODULE, ARGUMENTS...], in the folder `cwd`."""
  tests = Path(__file__).parent
  environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, (tests.parent, tests))))
  done = subprocess.run(
    [sys.executable, __file__],
    input=json.dumps([[str(word) for word in line] for line in lines]),
    cwd=cwd,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return [Done(*each) for each in json.loads(done.stdout)]


def serve() -> None:
  """Reads the command lines from standard input and writes how each ended."""
  import importlib

  for module in MODULES:
    importlib.import_module(module)
  json.dump([forked(module, words) for module, *words in json.load(sys.stdin)], sys.stdout)


def forked(module: str, words: list[str]) -> Done:
  """Runs one command line in a child process."""
  import tempfile

  with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
    child = os.fork()
    if not child:
      os.dup2(out.fileno(), 1)
      os.dup2(err.fileno(), 2)
      execute(module, words)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for file in (out, err):
      file.seek(0)
    return Done(code, out.read(), err.read())


def execute(module: str, words: list[str]) -> None:
  """Runs a module as the interpreter would; never returns."""
  import runpy
  import traceback
  import warnings

  code = 0
  try:
    with warnings.catch_warnings():
      warnings.filterwarnings('ignore', f".*'{module}' found in sys.modules")
      sys.argv = [module, *words]
      runpy.run_module(module, run_name='__main__', alter_sys=True)
  except SystemExit as ended:
    code = ended.code
    if isinstance(code, str):
      print(code, file=sys.stderr)
      code = 1
  except BaseException:
    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code or 0)


if __name__ == '__main__':
  serve()
