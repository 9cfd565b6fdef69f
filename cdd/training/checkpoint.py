"""Owns checkpoints: asynchronous, the last few and the best, with the data iterator's place."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from cdd.training.state import State


class Checkpoints:
  """The checkpoints below one folder; a step is there complete or not at all."""

  def __init__(self, folder: Path, abstract: State, *, keep: int = 2, best: str | None = None):
    """For states like `abstract`, which says their shapes and places.

    Args:
      keep: how many of the last are not deleted.
      best: the metric (lower is better) whose best checkpoint is not deleted either.
    """
    self._abstract = abstract
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
      Path(folder).absolute(),
      item_handlers=dict(
        state=ocp.StandardCheckpointHandler(save_concurrent_gb=in_flight(abstract)),
        data=ocp.JsonCheckpointHandler(),
      ),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(rules), enable_async_checkpointing=True
      ),
    )

  def latest(self) -> int | None:
    return self._manager.latest_step()

  def save(self, step: int, state: State, data: Any, metrics: dict | None = None) -> None:
    """Starts writing in the background; blocks only for the copy off the devices."""
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(dict(iterator=data))
    )
    self._manager.save(step, args=items, metrics=metrics)

  def restore(self, step: int | None = None) -> tuple[State, Any]:
    """The state, placed as `abstract` said, and the data iterator's place; of the last step."""
    step = self.latest() if step is None else step
    items = ocp.args.Composite(
      state=ocp.args.StandardRestore(self._abstract), data=ocp.args.JsonRestore()
    )
    got = self._manager.restore(step, args=items)
    return got['state'], got['data']['iterator']

  def close(self) -> None:
    self._manager.wait_until_finished()
    self._manager.close()


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
