"""A step planned for devices that are not there costs what the step that runs costs."""

import re
import shutil
from types import SimpleNamespace

import commands
import jax
import jax.numpy as jnp
import pytest
import tiny
from ml_collections import ConfigDict

from cdd import plan
from cdd.core import trees
from cdd.core.errors import UserError
from cdd.pretrained import priors
from cdd.runs import counting, planning
from cdd.runs.experiment import experiment
from cdd.runs.objective import objective
from cdd.runs.program import divide

# Published: the files on the hub hold this many numbers.
COUNTS = dict(
  sd15=dict(unet=859_520_964, vae=83_653_863, text_encoder=123_060_480),
  sd21=dict(unet=865_910_724, vae=83_653_863, text_encoder=340_387_840),
  sdxl=dict(
    unet=2_567_463_684, vae=83_653_863, text_encoder=123_060_480, text_encoder_2=694_659_840
  ),
)

SMALL = """
from configs import depth

def get_config():
  config = depth.get_config('tiny,method=finetune')
  config.prior.path = {path!r}
  config.model.adapter = dict(name='none')
  config.optimizer.name = 'adamw'
  config.data.update(dict(batch_size=8, cache=1))  # No autoencoder in the step.
  config.data.source.size = 32
  return config
"""


@pytest.fixture
def shapes_only(prior, tmp_path):
  """A folder with every config.json of a prior and none of its weights."""
  ignore = shutil.ignore_patterns('*.safetensors')
  return shutil.copytree(prior, tmp_path / 'shapes', ignore=ignore)


@pytest.mark.parametrize('family', COUNTS)
def test_the_families_have_the_published_numbers_of_parameters(family):
  prior = planning.prior(ConfigDict(dict(path=None)), plan.families()[family])
  sizes = lambda name: sum(leaf.size for leaf in trees.select(prior.params, name).values())
  assert {name: sizes(name) for name in prior.configs} == COUNTS[family]


def test_a_plan_without_weights_is_that_of_the_run(prior, shapes_only, tmp_path):
  config = tiny.load('depth.py:tiny,method=finetune', shapes_only)
  found = planning.compiled(config, planning.prior(config.prior, None), tiny.SIZE, jax.devices())
  config.prior.path = str(prior)
  run = experiment(config, tmp_path)
  batch = next(run.batches)
  del batch['present'], batch['sizes']  # SDXL's.
  held = jax.tree.leaves((run.abstract, run.frozen, batch))
  key = 8  # Two uint32.
  assert found.arguments == sum(leaf.size * leaf.dtype.itemsize for leaf in held) + key
  assert found.trainable == sum(leaf.size for leaf in run.abstract.params.values())
  assert found.total == found.trainable + sum(leaf.size for leaf in run.frozen.values())
  assert found.peak > found.arguments and found.collectives == {}


@pytest.mark.parametrize('adapter', ['mu_mix', 'controlnet', 't2i_adapter'])
def test_with_gamma_0_what_sees_the_condition_alone_is_computed_once(adapter, shapes_only):
  config = tiny.load(f'depth.py:tiny,adapter={adapter}', shapes_only)
  config.data.cache = 1  # No autoencoder in the step.
  if adapter == 'controlnet':
    config.model.adapter.hint_widths = (4, 8)
  if adapter == 't2i_adapter':
    config.model.adapter.downscale_factor = 4
  weights = planning.prior(config.prior, None)
  networks, added = priors.networks(config.model, weights)
  train, frozen = divide(config, {**weights.params, **added})
  batch = planning.batch_shapes(config, weights, networks, tiny.SIZE)
  key = jax.eval_shape(lambda: jax.random.key(0))
  work = lambda f, *inputs: counting.flops(jax.make_jaxpr(f)(*inputs).jaxpr)
  slope = jax.grad(objective(config, networks), has_aux=True)
  alone, copied = (work(slope, train, target, frozen, batch, key, 0) for target in ({}, train))

  def hints(params, raw):
    return networks.adapted(params, 'hints', networks.condition(params, raw))

  saved = work(hints, {**frozen, **train}, batch) - work(networks.text, frozen, batch)
  assert copied - alone == saved > 0


def test_the_command_plans_for_devices_that_share_the_batch(shapes_only, tmp_path):
  (tmp_path / 'planned.py').write_text(SMALL.format(path=str(shapes_only)))
  command = ['cdd.plan', '--config=planned.py', '--topology=cpu:4']
  done, wrong = commands.run([command, [*command, '--family=sd99']], cwd=tmp_path)
  assert done.code == 0, done.err[-2000:]
  assert 'depth_tiny_finetune on cpu:4, 32 px, a batch of 8' in done.out
  trained = int(re.search(r'([\d,]+) trained', done.out)[1].replace(',', ''))
  reduced = float(re.search(r'all-reduce ([\d.]+) MiB', done.out)[1])
  assert reduced == pytest.approx(4 * trained / 2**20, abs=0.1)  # The gradients, float32.
  assert wrong.code == 1 and re.fullmatch(r"error: Unknown family 'sd99'.*'sd21'.*\n", wrong.err)


def test_the_work_of_a_convolution_and_its_gradients_is_three_times_that_of_one():
  x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
  for stride in (1, 2):
    conv = lambda x, kernel, stride=stride: jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    once = 2 * (2 * (8 // stride) ** 2 * 5) * (3 * 3 * 3)
    assert counting.flops(jax.make_jaxpr(conv)(x, kernel).jaxpr) == once
    loss = lambda x, kernel, conv=conv: (conv(x, kernel) ** 2).sum()
    slopes = jax.make_jaxpr(jax.value_and_grad(loss, argnums=(0, 1)))(x, kernel)
    assert counting.flops(slopes.jaxpr) == 3 * once


def test_products_count_as_often_as_a_loop_runs_and_a_branch_by_the_dearer():
  matrix = jnp.ones((4, 4))
  product = 2 * 4**3

  def run(x):
    x, _ = jax.lax.scan(lambda x, _: (x @ matrix, None), x, length=7)
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ matrix @ matrix, jax.jit(jnp.sin), x)

  assert counting.flops(jax.make_jaxpr(run)(matrix).jaxpr) == 9 * product


def test_collectives_are_the_bytes_of_their_results():
  text = """
    %all-gather.1 = bf16[8,128]{1,0:T(8,128)} all-gather(%p), dimensions={0}
    %start = (f32[4], f32[16]) all-gather-start(%q)
    %done = f32[16]{0} all-gather-done(%start)
    %sum = (f32[], s32[10]{0}) all-reduce(%a, %b), to_apply=%add
    %other = f32[99]{0} add(%a, %b)
  """
  assert counting.collectives(text) == {'all-gather': 2 * 8 * 128 + 64, 'all-reduce': 44}


def test_too_little_memory_is_a_sentence():
  def compile():
    raise jax.errors.JaxRuntimeError(
      'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. '
      'Used 503.68G of 15.75G hbm. Exceeded hbm capacity by 487.93G.'
    )

  with pytest.raises(UserError, match='needs 503.68G of HBM on each chip, which has 15.75G'):
    planning.compile_or_explain(SimpleNamespace(compile=compile))


def test_an_unknown_chip_or_folder_names_the_choices():
  with pytest.raises(UserError, match="'v9'.*v5e"):
    planning.devices('v9:2x2')
  with pytest.raises(UserError, match='nowhere'):
    planning.prior(ConfigDict(dict(path='nowhere')), None)


@pytest.mark.parametrize('topology', ['cpu:foo', 'cpu:0', 'cpu:-1'])
def test_a_number_of_devices_that_is_none_is_refused(topology):
  with pytest.raises(UserError, match=f"no topology '{topology}'"):
    planning.cpus(topology)
