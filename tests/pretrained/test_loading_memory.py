"""A checkpoint is loaded onto devices without a second copy of it on the host."""

import json
import os
import subprocess
import sys

import numpy as np

from cdd.models import components, functional
from cdd.pretrained import diffusers, families

FIELDS = dict(block_out_channels=[96, 192, 384, 384], cross_attention_dim=192, norm_num_groups=32)
MEMORY = """
import json, re, sys
from pathlib import Path
import jax, numpy as np
from cdd.models import components, functional
from cdd.pretrained import diffusers, families
from cdd.training import sharding

folder = Path(sys.argv[1])
config = families.parse('unet', json.loads((folder / 'unet/config.json').read_text()))
functional.abstract(lambda: components.make('unet', config))  # Traced once for good.
mesh = sharding.make_mesh(data=1, fsdp=len(jax.devices()))
text = lambda: open('/proc/self/status').read()
status = lambda name: 1024 * int(re.search(name + r':\\s+(\\d+)', text())[1])
before = status('VmRSS')
params = diffusers.load(folder, dtype=None, place=sharding.placer(mesh)).params
peak = status('VmHWM') - before
total = sum(path.stat().st_size for path in folder.rglob('*.safetensors'))
places = sharding.of_params(params, mesh)
cut = [len({str(s.index) for s in leaf.addressable_shards}) for leaf in params.values()]
leaf = np.asarray(params['unet.up_blocks.1.resnets.0.conv1.kernel'])
ours = np.resize(np.linspace(-1, 1, 997, dtype=np.float32), leaf.shape).astype(leaf.dtype)
print(json.dumps(dict(
  ratio=peak / total, megabytes=total / 1e6,
  cut=cut.count(mesh.devices.size),
  placed=all(leaf.sharding == places[path] for path, leaf in params.items()),
  equal=bool((leaf == ours).all()), dtype=str(leaf.dtype),
)))
"""


def measured(folder):
  """What a process of its own sees, with four devices, while it loads the folder."""
  flags = dict(XLA_FLAGS='--xla_force_host_platform_device_count=4', JAX_PLATFORMS='cpu')
  done = subprocess.run(
    [sys.executable, '-c', MEMORY, str(folder)],
    env={**os.environ, **flags},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout)


def test_loading_onto_devices_needs_little_more_memory_than_the_checkpoint(tmp_path):
  config = families.parse('unet', FIELDS)
  shapes = functional.abstract(lambda: components.make('unet', config))[1]
  value = lambda shape: np.resize(np.linspace(-1, 1, 997, dtype=np.float32), shape)
  params = {f'unet.{path}': value(leaf.shape) for path, leaf in shapes.items()}
  for dtype in ('float32', 'float16'):
    prior = diffusers.Pretrained(dict(unet=config), params, {}, {})
    diffusers.save(prior, tmp_path / dtype, dtype=dtype)
    got = measured(tmp_path / dtype)
    print(f'{dtype}: {got["megabytes"]:.0f} MB, peak {got["ratio"]:.3f} of it')
    assert got['megabytes'] > 140 and got['dtype'] == dtype
    assert got['placed'] and got['equal'] and got['cut'] > 200
    assert 0.9 < got['ratio'] < 1.2
