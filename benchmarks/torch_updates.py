"""An update of a training by PyTorch: optimisers, rate, averages, processes that share it."""

import os

import torch
from torch import distributed

# This process of how many; torch.distributed.run says so.
RANK, PROCESSES = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))


def optimizers(prior, settings) -> list[torch.optim.Optimizer]:
  """Muon for the matrices inside, AdamW for all else, at one scale of the learning rate."""
  outside = ('conv_in', 'conv_out', 'embeddings')
  inside = lambda name: name.endswith('weight') and not {*outside} & {*name.split('.')}
  named = dict(prior.named_parameters())
  matrices = {name for name, p in named.items() if p.ndim > 1 and inside(name)}
  flat = [matrix(named[name]) for name in sorted(matrices)]
  others = [p for name, p in named.items() if name not in matrices]
  muon = dict(weight_decay=settings.weight_decay, adjust_lr_fn='match_rms_adamw')
  return [torch.optim.Muon(flat, **muon), torch.optim.AdamW(others, weight_decay=0.0)]


def matrix(weight: torch.nn.Parameter) -> torch.nn.Parameter:
  """A kernel as the matrix that Muon takes, in the same memory; its gradient follows the kernel's.

  Kernels are in channels-last layout, so that [out, height, width, in] is a view.
  """
  flatten = lambda array: array.permute(0, 2, 3, 1).flatten(1) if array.ndim == 4 else array
  view = torch.nn.Parameter(flatten(weight.detach()))
  assert view.data_ptr() == weight.data_ptr()

  def take(parameter):
    view.grad, parameter.grad = flatten(parameter.grad), None

  weight.register_post_accumulate_grad_hook(take)
  return view


def rate(done: float, settings) -> float:
  """The learning rate when so much of the training is done: constant, then down to 0."""
  return settings.learning_rate * min((1 - done) / (1 - settings.hold), 1)


def average(averaged, current, count, *, most: float) -> None:
  """Moves a running mean of weights, whose decay rises to `most`."""
  decay = min(most, (1 + float(count)) / (10 + float(count)))
  torch._foreach_lerp_(averaged, current, 1 - decay)


def first(value: float) -> float:
  """What the first process has."""
  if PROCESSES == 1:
    return value
  distributed.broadcast(shared := torch.tensor(value, dtype=torch.float64), 0)
  return shared.item()


def average_gradients(optimizers: list[torch.optim.Optimizer]) -> None:
  """Replaces gradients by their mean over the processes.

  Raises:
    RuntimeError: a parameter has none; its optimiser would pass it over in silence.
  """
  groups = [group for optimizer in optimizers for group in optimizer.param_groups]
  gradients = [p.grad for group in groups for p in group['params']]
  if missing := sum(one is None for one in gradients):
    raise RuntimeError(f'No gradient reaches {missing} of {len(gradients)} parameters.')
  if PROCESSES == 1:
    return
  distributed.all_reduce(flat := torch.cat([one.flatten() for one in gradients]))
  means = torch.split(flat / PROCESSES, [one.numel() for one in gradients])
  torch._foreach_copy_(gradients, [m.view_as(g) for m, g in zip(means, gradients, strict=True)])
