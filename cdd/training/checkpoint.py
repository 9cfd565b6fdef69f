"""Owns checkpoints: asynchronous, the last few and the best, with the data iterator's place."""

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from cdd.core import files
from cdd.core.errors import UserError
from cdd.training import integrity
from cdd.training.state import State


class Checkpoints:
  """The checkpoints below one folder; a step is there complete or not at all."""

  def __init__(self, folder: Path, abstract: State, *, keep: int = 2, best: str | None = None):
    """For states like `abstract`, which says their shapes and places.

    Args:
      keep: how many of the last are not deleted.
      best: the metric (lower is better) whose best checkpoint is not deleted either.
    """
    self._abstract, self._folder = abstract, Path(folder).absolute()
    self._saving = None
    drop_empty(self._folder)
    rules = [policies.LatestN(keep)]
    if best:

      def lower(metrics):
        return metrics[best] if metrics else float('inf')

      rules.append(
        policies.BestN(
          get_metric_fn=lower, reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
      )
    self._manager = ocp.CheckpointManager(
      self._folder,
      item_handlers=dict(
        state=ocp.StandardCheckpointHandler(save_concurrent_gb=in_flight(abstract)),
        data=ocp.JsonCheckpointHandler(),
      ),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(rules),
        enable_async_checkpointing=True,
        async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
        cleanup_tmp_directories=True,  # What a crash or a full disk left unfinished.
      ),
    )

  def latest(self) -> int | None:
    return self._manager.latest_step()

  def save(self, step: int, state: State, data: Any, metrics: dict | None = None) -> None:
    """Starts writing in the background; blocks only for the copy off the devices."""
    self.wait()
    with_room(self._folder, self._abstract)
    self._saving = step
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(dict(iterator=data))
    )
    with disk_errors(self._folder):
      self._manager.save(step, args=items, metrics=metrics)

  def wait(self) -> None:
    """Until what is being written is there.

    Raises:
      OSError: it could not be written.
    """
    with disk_errors(self._folder):
      self._manager.wait_until_finished()

  def _seal(self) -> None:
    """Adds checksums to what is written, in the background and before its folder gets its name."""
    if jax.process_index() == 0:
      (folder,) = self._folder.glob(f'{self._saving}.*')
      integrity.seal(folder)

  def restore(self) -> tuple[State, Any]:
    """The state, placed as `abstract` said, and the data iterator's place; of the last step.

    A checkpoint that is damaged is said, set aside as damaged_STEP, and the one before is used.

    Raises:
      UserError: none is intact.
    """
    faults = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      faults[step], got = self._read(step)
      if got:
        break
    else:
      reasons = '; '.join(f'{step}: {fault}' for step, fault in faults.items())
      raise UserError(
        f'None of the checkpoints in {self._folder} is intact ({reasons}). Remove that folder to '
        'start anew.'
      )
    del faults[step]
    for damaged, fault in faults.items() if jax.process_index() == 0 else ():
      logging.warning(
        'The checkpoint %s/%d is damaged: %s. Resuming from that of step %d.',
        self._folder,
        damaged,
        fault,
        step,
      )
    self._set_aside(list(faults))
    return got['state'], got['data']['iterator']

  def _read(self, step: int) -> tuple[str | None, Any]:
    """(what is wrong with a checkpoint, its items if nothing is); the same on every process."""
    # One process reads the files for all of them.
    fault = integrity.fault(self._folder / str(step)) if jax.process_index() == 0 else None
    if not agreed(fault is None):
      return fault or 'process 0 found it damaged', None
    items = ocp.args.Composite(
      state=ocp.args.StandardRestore(self._abstract), data=ocp.args.JsonRestore()
    )
    got = None
    try:
      got = self._manager.restore(step, args=items)
    except Exception as error:  # Orbax and TensorStore raise whatever they meet.
      fault = first_line(error)
    return (None, got) if agreed(got is not None) else (fault or 'another process failed', None)

  def _set_aside(self, steps: list[int]) -> None:
    """Renames damaged checkpoints, so that they neither count nor stand in the way."""
    for step in steps if jax.process_index() == 0 else ():
      aside = self._folder / f'damaged_{step}'
      shutil.rmtree(aside, ignore_errors=True)
      os.replace(self._folder / str(step), aside)
    if steps:
      multihost_utils.sync_global_devices('damaged')
      self._manager.reload()

  def close(self) -> None:
    """Waits as `wait` does, and ends the threads behind it."""
    self.wait()
    with disk_errors(self._folder):
      self._manager.close()


def steps(folder: Path) -> list[int]:
  """The steps of the checkpoints in a folder, ascending; an empty folder is none."""
  paths = [path for path in Path(folder).glob('*') if path.name.isdigit() and path.is_dir()]
  return sorted(int(path.name) for path in paths if any(path.iterdir()))


def newest(folder: Path) -> int | None:
  """The last of `steps`."""
  return max(steps(folder), default=None)


def evaluated(folder: Path) -> dict[str, np.ndarray]:
  """All of θ⁻ of the checkpoint in a folder, on the host; the optimiser's state is not read.

  Raises:
    UserError: the checkpoint is damaged.
  """
  fault = integrity.fault(folder)
  try:
    if fault is None:
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        path = Path(folder).absolute() / 'state'
        there = reader.metadata(path).item_metadata.tree
        wanted = {name: there.get(name) or {} for name in ('params', 'target')}
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        args = ocp.args.PyTreeRestore(
          wanted,
          restore_args=jax.tree.map(lambda leaf: as_numpy, wanted),
          partial_restore=True,
        )
        got = reader.restore(path, args)
        return {**got['params'], **got['target']}
  except Exception as error:  # Orbax and TensorStore raise whatever they meet.
    fault = first_line(error)
  raise UserError(f'The checkpoint {folder} is damaged: {fault}.')


@contextlib.contextmanager
def disk_errors(folder: Path):
  """Makes an OSError of what TensorStore raises when a disk is full."""
  try:
    yield
  except OSError:
    raise
  except Exception as error:
    for code in files.REFUSED:
      if os.strerror(code) in str(error):
        raise OSError(code, os.strerror(code), str(folder)) from error
    raise


def with_room(folder: Path, abstract: State) -> None:
  """Looks for the room before a checkpoint is begun: a disk that fills up breaks it in the middle.

  Raises:
    OSError: there is less than the state takes.
  """
  room = shutil.disk_usage(folder).free
  needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))
  # Noise compresses by a tenth.
  if not agreed(room > 0.9 * needed):
    reason = f'{room / 1e6:.1f} MB are free, a checkpoint takes {needed / 1e6:.1f} MB'
    raise OSError(errno.ENOSPC, f'No space left on device: {reason}', str(folder))


def agreed(good: bool) -> bool:
  """Whether it is so on every process; all of them ask."""
  return bool(np.all(multihost_utils.process_allgather(np.array(good))))


def drop_empty(folder: Path) -> None:
  """Removes checkpoints without a single file, as a crash leaves them, with a line for each."""
  there = (path for path in folder.glob('*') if path.name.isdigit() and path.is_dir())
  empty = [path for path in there if not any(path.iterdir())]
  for path in empty if jax.process_index() == 0 else ():
    logging.warning('The checkpoint %s is damaged: it is empty. It does not count.', path)
    path.rmdir()
  multihost_utils.sync_global_devices('empty')


def first_line(error: Exception) -> str:
  """The first line of an error's message, at most 200 characters of it."""
  return (str(error).strip().splitlines() or [type(error).__name__])[0].split('. See ')[0][:200]


def in_flight(abstract: State) -> int:
  """How much of a state may be on its way to the disk at a time, in GB: at least its largest array.

  Orbax's own limit, 96, would hold all of it in memory once more.
  """
  sizes = (leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))
  return 1 + max(sizes) // 10**9


def abstract(state, shardings):
  """Shapes with shardings, as `restore` wants them."""
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
    state,
    shardings,
  )
