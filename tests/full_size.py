"""A network at its full width, of random weights: written and run by PyTorch, read and run by us.

  python tests/full_size.py theirs sd15 unet FOLDER    # writes FOLDER/unet, FOLDER/theirs_unet.npz
  python tests/full_size.py ours sd15 unet FOLDER      # reads FOLDER/unet, writes ours_unet.npz

Each side is a process of its own, as SDXL does not fit twice, and prints its seconds and its peak
memory as a line of JSON.
"""

import json
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cdd import runtime
from configs.stable_diffusion import FAMILIES

SIDE = 16  # of the latents: what has to be full are the widths


def inputs(family: str, side: int = SIDE) -> dict[str, np.ndarray]:
  """What both sides compute with: one example, NHWC."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  image = lambda low: rng.uniform(low, 1, (1, 8 * side, 8 * side, 3)).astype(np.float32)
  tokens = rng.integers(1, 49406, size=(1, 77)).astype(np.int32)
  tokens[:, 0], tokens[:, 40:] = 49406, 49407
  return dict(
    tokens=tokens,
    z=normal(1, side, side, 4),
    index=np.array([437], np.int32),
    states=normal(1, 77, FAMILIES[family]['unet']['cross_attention_dim']),
    pooled=normal(1, 1280),
    sizes=np.array([[1024, 768, 16, 0, 1024, 1024]], np.float32),
    images=image(-1),
    condition=image(0),
  )


@contextmanager
def measured(seconds: dict, name: str):
  start = time.perf_counter()
  yield
  seconds[name] = round(time.perf_counter() - start, 2)


def peak() -> float:
  """GiB that this process has held at most."""
  status = Path('/proc/self/status').read_text()
  return round(int(re.search(r'VmHWM:\s+(\d+)', status)[1]) / 2**20, 2)


def write(family: str, component: str, folder: Path) -> None:
  """A random network by the reference library, in its own layout; SDXL in shards."""
  import diffusers
  import torch
  import transformers

  fields = FAMILIES[family][component]
  torch.manual_seed(0)
  if component.startswith('text_encoder'):
    kind = transformers.CLIPTextModel
    if component == 'text_encoder_2':
      kind = transformers.CLIPTextModelWithProjection
    model = kind(transformers.CLIPTextConfig(**fields))
  else:
    kind = dict(unet=diffusers.UNet2DConditionModel, vae=diffusers.AutoencoderKL)[component]
    model = kind.from_config(fields)
  with torch.no_grad():
    for parameter in model.parameters():
      if parameter.ndim == 1:  # So that a norm's scale and shift show in the result.
        parameter.add_(0.1 * torch.randn_like(parameter))
  model.save_pretrained(folder / component, max_shard_size='2GB' if family == 'sdxl' else '9GB')


def theirs(component: str, folder: Path, given: dict, seconds: dict) -> dict[str, np.ndarray]:
  """What the reference library computes."""
  import diffusers
  import torch
  import transformers

  kinds = dict(
    unet=diffusers.UNet2DConditionModel,
    vae=diffusers.AutoencoderKL,
    text_encoder=transformers.CLIPTextModel,
    text_encoder_2=transformers.CLIPTextModelWithProjection,
  )
  with measured(seconds, 'load'):
    model = kinds[component].from_pretrained(folder / component, dtype=torch.float32).eval()
  given = {k: torch.tensor(v) for k, v in given.items()}
  nchw = lambda x: x.permute(0, 3, 1, 2)
  with measured(seconds, 'run'), torch.no_grad():
    if component == 'unet':
      added = dict(text_embeds=given['pooled'], time_ids=given['sizes'])
      out = model(nchw(given['z']), given['index'], given['states'], added_cond_kwargs=added).sample
      return dict(out=out.permute(0, 2, 3, 1).numpy())
    if component == 'vae':
      posterior = model.encode(nchw(given['images'])).latent_dist
      outs = dict(mean=posterior.mean, logvar=posterior.logvar)
      outs['decoded'] = model.decode(posterior.mean).sample
      return {name: out.permute(0, 2, 3, 1).numpy() for name, out in outs.items()}
    out = model(given['tokens'].long(), output_hidden_states=True)
    outs = dict(out=out.last_hidden_state, penultimate=out.hidden_states[-2])
    outs['pooled'] = out.text_embeds if component == 'text_encoder_2' else out.pooler_output
    return {name: value.numpy() for name, value in outs.items()}


def ours(component: str, folder: Path, given: dict, seconds: dict) -> dict[str, np.ndarray]:
  """What this package computes of the same files."""
  runtime.configure()
  import jax

  from cdd import trees
  from cdd.models import functional
  from cdd.models.pretrained import diffusers
  from cdd.types import Text

  with measured(seconds, 'load'):
    loaded = diffusers.load(folder, place=lambda path, array: jax.device_put(array))
  params = trees.select(loaded.params, component)
  make = lambda: diffusers.make(component, loaded.configs[component])
  apply, _ = functional.abstract(make)

  def call(method, *args):
    run = jax.jit(lambda params, *args: apply(params, method, *args))
    with measured(seconds, f'compile {method}'):
      run = run.lower(params, *args).compile()
    with measured(seconds, f'run {method}'):
      return jax.block_until_ready(run(params, *args))

  if component == 'unet':
    text = Text(given['states'], given['pooled'], given['sizes'])
    return dict(out=call('__call__', given['z'], given['index'], text))
  if component == 'vae':
    mean, logvar = call('encode', given['images'])
    return dict(mean=mean, logvar=logvar, decoded=call('decode', mean))
  states = call('__call__', given['tokens'])
  return dict(out=states.last, penultimate=states.penultimate, pooled=states.pooled)


def main(side: str, family: str, component: str, folder: str) -> None:
  folder, seconds, given = Path(folder), {}, inputs(family)
  if side == 'write':
    with measured(seconds, 'write'):
      write(family, component, folder)
  else:
    outputs = dict(theirs=theirs, ours=ours)[side](component, folder, given, seconds)
    np.savez(folder / f'{side}_{component}.npz', **outputs)
  print(json.dumps(dict(seconds=seconds, peak_gib=peak())), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
