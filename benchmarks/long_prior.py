"""Trains the prior by PyTorch's diffusers, for many hours; its output says how far it is.

python -m benchmarks.long_prior --home=FOLDER           trains, or goes on where it stopped
python -m benchmarks.long_prior --home=FOLDER --export  writes FOLDER/export as it is now
python -m benchmarks.long_prior --home=FOLDER --stage=gpu --budget=6   on a GPU (gpu.sh)
python -m torch.distributed.run --standalone --nproc-per-node=2 -m benchmarks.long_prior ...
                                                        a batch shared by two processes

A prior comes from PyTorch in practice, and on a CPU PyTorch trains this one about twice as fast as
XLA: it computes in bfloat16 (docs/prior.md). The folder that it exports is read by cdd like
any other. Data, shape and settings are `long` of configs/pretrain.py, which trains the packaged
U-Net and text encoder further, or `gpu`, with a wider U-Net from nothing. The autoencoder stays as
it is.

`make prior` starts it in the background. SIGTERM has it save and leave; killed otherwise it loses
what it did since the last checkpoint.
"""

import contextlib
import copy
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import diffusers
import filelock
import numpy as np
import torch
import transformers
from absl import flags
from torch import distributed
from torch.nn import functional

from benchmarks.torch_updates import (
  PROCESSES,
  RANK,
  average,
  average_gradients,
  first,
  optimizers,
  rate,
)
from cdd import assets
from cdd.core import cli, files, interrupts
from cdd.core.errors import UserError
from cdd.core.registry import make
from cdd.data import SOURCES, TASKS, cache
from configs import pretrain

HOME = flags.DEFINE_string('home', None, 'Where everything is written.', required=True)
EXPORT = flags.DEFINE_bool('export', False, 'Only exports the newest checkpoint.')
STAGE = flags.DEFINE_string('stage', 'long', 'Its config of configs/pretrain.py.')
MINUTES = flags.DEFINE_float('budget', None, 'Minutes after which it ends, encoding included.')
WEIGHTS = flags.DEFINE_string('weights', None, 'A diffusers folder that a new run starts from.')
THREADS = flags.DEFINE_integer('threads', 1, 'Threads of PyTorch.')
EVERY = 125  # Updates from one checkpoint, and line of the log, to the next.
FIRST, PASSES = 2, 20  # Parts to begin with; passes over a part until one more is encoded.
HELD_OUT = 128
TIMES = (200, 400, 600, 800, 1000)
PACKAGED = assets.PRIOR
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
BEGUN = time.perf_counter()
WHOLE = dict(torch_dtype=torch.float32, low_cpu_mem_usage=False)


class Prior(torch.nn.Module):
  """What is trained: the U-Net and the text encoder."""

  def __init__(self, unet: diffusers.UNet2DConditionModel, text_encoder):
    super().__init__()
    self.unet, self.text_encoder = unet, text_encoder
    if DEVICE == 'cpu':  # PyTorch's own attention takes a third of a step's time there.
      unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor())
      text_encoder.set_attn_implementation('eager')

  @classmethod
  def read(cls, folder: Path, unet: diffusers.UNet2DConditionModel | None = None) -> 'Prior':
    """That of a diffusers folder in float32, or of its text encoder with another U-Net."""
    unet = unet or diffusers.UNet2DConditionModel.from_pretrained(folder / 'unet', **WHOLE)
    text = transformers.CLIPTextModel.from_pretrained(folder / 'text_encoder', dtype='float32')
    return cls(unet, text).to(DEVICE, memory_format=torch.channels_last)

  def forward(self, noisy, t, ids: torch.Tensor) -> torch.Tensor:
    """v [b, c, h, w] from noisy latents, diffusers' times and the tokens of captions."""
    states = self.text_encoder(ids.to(DEVICE)).last_hidden_state
    return self.unet(noisy, t, states).sample.float()


class Frozen(NamedTuple):
  """What is read from a diffusers folder and not trained."""

  tokenizer: transformers.CLIPTokenizer
  vae: diffusers.AutoencoderKL
  scheduler: diffusers.DDPMScheduler

  @classmethod
  def read(cls, folder: Path) -> 'Frozen':
    vae = diffusers.AutoencoderKL.from_pretrained(folder / 'vae', **WHOLE)
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / 'scheduler')
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / 'tokenizer')
    return cls(tokenizer, vae.requires_grad_(False).to(DEVICE), scheduler)

  def ids(self, captions: list[str]) -> torch.Tensor:
    """The tokens of captions [n, length]."""
    settings = dict(padding='max_length', truncation=True, return_tensors='pt')
    return self.tokenizer(captions, **settings).input_ids

  def encode(self, images: np.ndarray) -> np.ndarray:
    """Pictures [n, H, W, 3] in [0, 1] -> latents [n, h, w, c], scaled."""
    pixels = 2 * torch.from_numpy(np.asarray(images, np.float32)).permute(0, 3, 1, 2) - 1
    latents = self.vae.encode(pixels.to(DEVICE)).latent_dist.mode() * self.vae.config.scaling_factor
    return latents.permute(0, 2, 3, 1).cpu().numpy()


class Examples:
  """Encoded parts of the training data; more of them as the training goes on."""

  def __init__(self, folder: Path, config, frozen: Frozen):
    self._folder, self._config, self._frozen, self._parts = folder, config, frozen, []

  def batch(self, update: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(latents [b, c, h, w], token ids) of an update, always the same."""
    rng, data = np.random.default_rng((0, update)), self._config.data
    self._grow(FIRST + update * data.batch_size // (PASSES * data.cache))
    places = rng.integers(len(self._parts) * data.cache, size=data.batch_size)
    rows = [tuple(array[p % data.cache] for array in self._parts[p // data.cache]) for p in places]
    latents, ids = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    without = torch.from_numpy(rng.random(len(places)) < data.caption_dropout)
    ids = torch.where(without[:, None], self._frozen.ids(['']), ids)
    return latents.float().permute(0, 3, 1, 2), ids

  def _grow(self, count: int) -> None:
    missing = range(len(self._parts) + 1, count + 1)
    for part in missing[RANK::PROCESSES]:
      self._encode(self._folder / f'part_{part}', part)
    if missing and PROCESSES > 1:
      distributed.barrier()
    for part in missing:
      folder = self._folder / f'part_{part}'
      captions = json.loads((folder / 'captions.json').read_text())
      ids = self._frozen.ids(captions).numpy()
      self._parts.append((np.load(folder / 'image.npy', mmap_mode='r'), ids))

  def _encode(self, folder: Path, part: int) -> None:
    """Writes a part, unless it is there."""
    data = self._config.data
    source = make(SOURCES, pretrain.long_source(part), 'source')
    task = make(TASKS, data.task, 'task').example
    settings = dict(count=data.cache, threads=data.threads, workers=data.workers)
    cache.write(folder, source, task, dict(image=self._frozen.encode), **settings)


def loss(prior, frozen: Frozen, latents, ids, t, noise: torch.Tensor) -> torch.Tensor:
  """The mean squared error of v."""
  latents, t, noise = latents.to(DEVICE), t.to(DEVICE), noise.to(DEVICE)
  noisy = frozen.scheduler.add_noise(latents, noise, t)
  v = frozen.scheduler.get_velocity(latents, noise, t)
  return functional.mse_loss(prior(noisy, t, ids), v)


class Run:
  """A training: its weights, their average, its optimisers, and what it has seen."""

  def __init__(self, config, frozen: Frozen, start: str | None = None):
    self.config, self.frozen, self.update = config, frozen, 0
    torch.manual_seed(config.seed)
    new = None
    if not start and 'new' in config.prior:
      new = diffusers.UNet2DConditionModel(**config.prior.new.unet)
    self.prior = Prior.read(Path(start or PACKAGED), new)
    mean = partial(average, most=config.target.decay)
    self.averaged = torch.optim.swa_utils.AveragedModel(self.prior, multi_avg_fn=mean)
    self.optimizers = optimizers(self.prior, config.optimizer)

  def _kept(self) -> dict:
    muon, adamw = self.optimizers
    return dict(prior=self.prior, averaged=self.averaged, muon=muon, adamw=adamw)

  def save(self, path: Path) -> None:
    with files.atomic(path) as new:
      state = {name: part.state_dict() for name, part in self._kept().items()}
      torch.save(dict(update=self.update, **state), new)

  def restore(self, path: Path) -> None:
    """Takes up a checkpoint, if there is one."""
    if path.exists():
      state = torch.load(path, map_location=DEVICE, weights_only=True)
      self.update = state['update']
      for name, part in self._kept().items():
        part.load_state_dict(state[name])

  def done(self) -> float:
    """How much of the training is done, by updates or by the clock."""
    minutes = (time.perf_counter() - BEGUN) / 60
    return first(max(self.update / self.config.steps, minutes / (MINUTES.value or np.inf)))

  def step(self, latents: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """An update; its loss."""
    generator = torch.Generator().manual_seed(self.update)
    count = self.frozen.scheduler.config.num_train_timesteps
    t = torch.randint(count, latents.shape[:1], generator=generator)
    batch = latents, ids, t, torch.randn(latents.shape, generator=generator)
    with torch.autocast(DEVICE, torch.bfloat16):
      error = loss(self.prior, self.frozen, *(each[RANK::PROCESSES] for each in batch))
    error.backward()
    average_gradients(self.optimizers)
    settings = self.config.optimizer
    now = min((self.update + 1) / settings.warmup, 1) * rate(self.done(), settings)
    for optimizer in self.optimizers:
      for group in optimizer.param_groups:
        group['lr'] = now
      optimizer.step()
      optimizer.zero_grad()
    self.averaged.update_parameters(self.prior)
    self.update += 1
    return error.detach()


def held_out_error(frozen: Frozen, mixed) -> Callable:
  """prior -> {kind: {time: error of v}} of held-out pictures, the same noise always.

  Args:
    mixed: the fields of a mixture of sources, which take turns.
  """
  source = make(SOURCES, mixed, 'source')
  kinds = [one['name'] for one in mixed['sources']]
  examples = [source[index] for index in range(HELD_OUT)]
  latents = torch.from_numpy(frozen.encode(np.stack([one['image'] for one in examples])))
  latents, ids = latents.permute(0, 3, 1, 2), frozen.ids([e['caption'] for e in examples])

  @torch.no_grad()
  def error(prior) -> dict[str, dict[int, float]]:
    def at(place, t):
      mine = slice(place, None, len(kinds))
      noise = torch.randn(latents[mine].shape, generator=torch.Generator().manual_seed(t))
      times = torch.full(latents[mine].shape[:1], t - 1)
      return loss(prior, frozen, latents[mine], ids[mine], times, noise).item()

    return {kind: {t: at(place, t) for t in TIMES} for place, kind in enumerate(kinds)}

  return error


def said(found: dict[str, dict[int, float]]) -> str:
  """Errors by kind and time, in words."""

  def of_kind(kind, by_time):
    values = ' '.join(f't {t}: {value:.4f}' for t, value in by_time.items())
    return f'{kind} {np.mean([*by_time.values()]):.4f} ({values})'

  return ', '.join(of_kind(*each) for each in found.items())


def fit(run: Run, examples: Examples, folder: Path, *, show: Callable, stopped: Callable) -> None:
  """Goes on until the end, or until `stopped()`, and saves."""
  data = run.config.data
  error, batch = held_out_error(run.frozen, data.held_out), data.batch_size
  if not run.update and not RANK:
    show(f'the packaged prior: held-out error of v: {said(error(Prior.read(PACKAGED)))}')
  begun, losses = time.perf_counter(), []
  done = run.done()
  while done < 1 and not first(bool(stopped())):
    losses.append(run.step(*examples.batch(run.update)))
    done = run.done()
    if not RANK and (run.update % EVERY == 0 or done >= 1):
      mean = torch.stack(losses).mean().item()
      if not np.isfinite(mean):
        raise UserError(f'The loss is {mean} within the {len(losses)} updates to {run.update}.')
      speed = len(losses) * batch / (time.perf_counter() - begun)
      show(line(run, mean, error(run.averaged.module), speed))
      run.save(folder / 'state.pt')
      begun, losses = time.perf_counter(), []
  if not RANK:
    run.save(folder / 'state.pt')


def line(run: Run, mean: float, found: dict, speed: float) -> str:
  """What the log says: examples, errors, speed and time left."""
  batch, steps = run.config.data.batch_size, run.config.steps
  by_clock = (MINUTES.value or np.inf) / 60 - (time.perf_counter() - BEGUN) / 3600
  left = max(0, min((steps - run.update) * batch / speed / 3600, by_clock))
  return (
    f'{time.strftime("%Y-%m-%d %H:%M")} {run.update * batch:,} of {steps * batch:,} examples; '
    f'loss {mean:.4f}; held-out error of v: {said(found)}; '
    f'{speed:.1f} examples/s; {left:.1f} h left'
  )


def export(run: Run, folder: Path) -> None:
  """Writes a diffusers folder: what was trained, averaged, in float16, all else as packaged."""
  prior = copy.deepcopy(run.averaged.module).half()
  with files.atomic(folder) as new:
    shutil.copytree(PACKAGED, new)
    for name in ('unet', 'text_encoder'):
      shutil.rmtree(new / name)
      getattr(prior, name).save_pretrained(new / name)
      about = new / name / 'config.json'
      fields = json.loads(about.read_text())
      # Left out: a folder of this machine, and the dtype, which is that of the weights.
      fields = {k: v for k, v in fields.items() if k not in ('_name_or_path', 'dtype')}
      files.write_json(about, fields)


def train(run: Run, home: Path) -> None:
  """Trains until the end or a SIGTERM."""
  signals = []

  def stop(number, frame):
    del frame
    signals.append(number)
    interrupts.heed(number)

  signal.signal(signal.SIGTERM, stop)
  interrupts.saving(True)
  examples = Examples(home / 'examples', run.config, run.frozen)
  show = partial(print, flush=True)
  with alone(home):
    fit(run, examples, home, show=show, stopped=lambda: bool(signals))


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
  """Holds a home for one training, whose first process is told by its file `pid`."""
  if RANK:
    yield
    return
  try:
    with filelock.FileLock(home / 'lock', timeout=0):
      give_way()
      files.write(home / 'pid', f'{os.getpid()}\n')
      try:
        yield
      finally:
        (home / 'pid').unlink()
  except filelock.Timeout as error:
    raise UserError(f'Another process trains in {home}.') from error


def give_way() -> None:
  """Has Linux run this session below every other: nice alone counts among its own processes.

  Only if this process leads the session, as `make prior` has it, and not a terminal.
  """
  if os.getsid(0) == os.getpid():
    with contextlib.suppress(OSError):
      Path('/proc/self/autogroup').write_text('19')


def main() -> None:
  home = Path(HOME.value)
  home.mkdir(parents=True, exist_ok=True)
  torch.set_num_threads(THREADS.value)
  if PROCESSES > 1:
    distributed.init_process_group('gloo')
  transformers.utils.logging.disable_progress_bar()
  run = Run(pretrain.get_config(STAGE.value), Frozen.read(PACKAGED), WEIGHTS.value)
  if EXPORT.value and not (home / 'state.pt').exists():
    raise UserError(f'{home} has no checkpoint yet.')
  run.restore(home / 'state.pt')
  if not EXPORT.value:
    train(run, home)
  if RANK:
    return
  if not run.update:
    raise UserError('The time was over before the first update; nothing is exported.')
  export(run, home / 'export')
  print(f'Wrote {home / "export"} after {run.update} updates.')


if __name__ == '__main__':
  cli.run(main)
