"""A network at its full width, of random weights: written and run by PyTorch, read and run by us.

  python tests/full_size.py write sd15 unet FOLDER    # FOLDER/unet, as the reference lays it out
  python tests/full_size.py theirs sd15 unet FOLDER   # what PyTorch makes of it: theirs_unet.npz
  python tests/full_size.py ours sd15 unet FOLDER     # what we make of it: ours_unet.npz

Each is a process of its own, as SDXL does not fit twice, and prints its seconds and its peak memory
as a line of JSON. A component is one of the family's, or an adapter, run with FOLDER/unet.
"""

import json
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cdd.core import runtime
from configs.stable_diffusion import FAMILIES

SIDE = 16  # of the latents: what has to be full are the widths
ADAPTERS = ('concat', 'controlnet', 't2i_adapter')


def inputs(family: str) -> dict[str, np.ndarray]:
  """What both sides compute with: one example, NHWC."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  image = lambda low: rng.uniform(low, 1, (1, 8 * SIDE, 8 * SIDE, 3)).astype(np.float32)
  tokens = rng.integers(1, 49406, size=(1, 77)).astype(np.int32)
  tokens[:, 0], tokens[:, 40:] = 49406, 49407
  return dict(
    tokens=tokens,
    z=normal(1, SIDE, SIDE, 4),
    index=np.array([437], np.int32),
    states=normal(1, 77, FAMILIES[family]['unet']['cross_attention_dim']),
    pooled=normal(1, 1280),
    sizes=np.array([[1024, 768, 16, 0, 1024, 1024]], np.float32),
    images=image(-1),
    condition=image(0),
    latents=normal(1, SIDE, SIDE, 4),
  )


@contextmanager
def measured(figures: dict, name: str):
  """Adds the seconds of a part, and the most GiB that the process has held by its end."""
  start = time.perf_counter()
  yield
  status = Path('/proc/self/status').read_text()
  peak = int(re.search(r'VmHWM:\s+(\d+)', status)[1]) / 2**20
  figures[name] = dict(seconds=round(time.perf_counter() - start, 2), peak_gib=round(peak, 2))


def kind(component: str) -> type:
  """The reference's class of a component."""
  import diffusers
  import transformers

  return dict(
    unet=diffusers.UNet2DConditionModel,
    vae=diffusers.AutoencoderKL,
    text_encoder=transformers.CLIPTextModel,
    text_encoder_2=transformers.CLIPTextModelWithProjection,
    concat=diffusers.UNet2DConditionModel,
    controlnet=diffusers.ControlNetModel,
    t2i_adapter=diffusers.T2IAdapter,
  )[component]


def write(family: str, component: str, folder: Path, figures: dict) -> None:
  """A random network by the reference library, in its own layout; SDXL in shards."""
  import torch
  import transformers

  unet = FAMILIES[family]['unet']
  fields = dict(
    FAMILIES[family],
    concat=dict(unet, in_channels=8),
    controlnet=unet,
    t2i_adapter=dict(channels=list(unet['block_out_channels'])),
  )[component]
  torch.manual_seed(0)
  with measured(figures, 'write'), torch.no_grad():
    if component.startswith('text_encoder'):
      model = kind(component)(transformers.CLIPTextConfig(**fields))
    else:
      model = kind(component).from_config(fields)
    for parameter in model.parameters():
      # So that a norm's scale and shift, and a zero convolution, show in the result.
      if parameter.ndim == 1 or not parameter.any():
        parameter.add_(0.05 * torch.randn_like(parameter))
    size = '2GB' if family == 'sdxl' else '9GB'
    model.save_pretrained(folder / component, max_shard_size=size)


def theirs(family: str, component: str, folder: Path, figures: dict) -> dict[str, np.ndarray]:
  """What the reference library computes."""
  import torch

  read = lambda name: kind(name).from_pretrained(folder / name, torch_dtype=torch.float32).eval()
  nchw = lambda x: x.permute(0, 3, 1, 2).contiguous()
  given = {name: torch.tensor(array) for name, array in inputs(family).items()}
  given |= {name: nchw(x) for name, x in given.items() if x.ndim == 4}
  with measured(figures, 'load'):
    model = read(component)
    unet = read('unet') if component in ADAPTERS[1:] else model
  with measured(figures, 'run'), torch.no_grad():
    if component in ('unet', *ADAPTERS):
      outs = dict(out=predicted(component, model, unet, given))
    elif component == 'vae':
      posterior = model.encode(given['images']).latent_dist
      outs = dict(mean=posterior.mean, logvar=posterior.logvar)
      outs['decoded'] = model.decode(posterior.mean).sample
    else:
      out = model(given['tokens'].long(), output_hidden_states=True)
      outs = dict(last=out.last_hidden_state, penultimate=out.hidden_states[-2])
      outs['pooled'] = out.text_embeds if component == 'text_encoder_2' else out.pooler_output
  return {name: (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).numpy() for name, x in outs.items()}


def predicted(component: str, model, unet, given: dict):
  """The reference's U-Net with what an adapter adds to it."""
  import torch

  z, index, states = given['z'], given['index'], given['states']
  more = dict(added_cond_kwargs=dict(text_embeds=given['pooled'], time_ids=given['sizes']))
  if component == 'concat':
    z = torch.cat([z, given['latents']], 1)
  if component == 'controlnet':
    down, mid = model(z, index, states, given['condition'], return_dict=False)
    more = dict(down_block_additional_residuals=down, mid_block_additional_residual=mid)
  if component == 't2i_adapter':
    more = dict(down_intrablock_additional_residuals=model(given['condition']))
  return unet(z, index, states, **more).sample


def ours(family: str, component: str, folder: Path, figures: dict) -> dict[str, np.ndarray]:
  """What this package computes of the same files."""
  runtime.configure()
  import jax

  from cdd.core import trees
  from cdd.core.types import Condition, Text
  from cdd.models import assemble, components, functional
  from cdd.pretrained import adapter_folders, diffusers

  given = inputs(family)
  text = Text(given['states'])
  jax.devices()
  with measured(figures, 'load'):
    loaded = diffusers.load(folder, place=lambda path, array: jax.device_put(array))
  params = trees.select(loaded.params, component)
  if component in ADAPTERS:
    unet = loaded.configs['unet']
    spec, weights = adapter_folders.start(dict(name=component, path=folder / component), unet)
    make, _, added = assemble.with_adapter(spec, weights, unet, loaded.params, np.float32)
    params = loaded.params | added
  else:
    make = lambda: components.make(component, loaded.configs[component])
  apply, _ = functional.abstract(make)

  def call(method, *args):
    run = jax.jit(lambda params, *args: apply(params, method, *args))
    with measured(figures, f'compile {method}'):
      run = run.lower(params, *args).compile()
    with measured(figures, f'run {method}'):
      return jax.block_until_ready(run(params, *args))

  if component == 'unet':
    text = Text(given['states'], given['pooled'], given['sizes'])
    return dict(out=call('__call__', given['z'], given['index'], text))
  if component in ADAPTERS:
    image = given['latents' if component == 'concat' else 'condition']
    c = Condition(dict(condition=image), text)
    return dict(out=call('__call__', given['z'], c, given['index']))
  if component == 'vae':
    mean, logvar = call('encode', given['images'])
    return dict(mean=mean, logvar=logvar, decoded=call('decode', mean))
  return call('__call__', given['tokens'])._asdict()


def main(side: str, family: str, component: str, folder: str) -> None:
  figures = {}
  run = dict(write=write, theirs=theirs, ours=ours)[side]
  outputs = run(family, component, Path(folder), figures)
  if outputs:
    np.savez(Path(folder) / f'{side}_{component}.npz', **outputs)
  print(json.dumps(figures), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
