"""A step planned for devices that are not there costs what the step that runs costs."""

import json
import re
import shutil
import subprocess
import sys
from functools import partial
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
from cdd.runs import counting, estimates, hlo, planning, prepare, topologies
from cdd.runs.experiment import experiment
from cdd.runs.largest import largest
from cdd.runs.objective import objective
from cdd.runs.program import divide
from configs import depth

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


@pytest.mark.parametrize('make', [planning.training, partial(planning.sampling, steps=2)])
@pytest.mark.parametrize('options', ['full', 'full,prepared=-'])
def test_a_batch_has_what_two_text_encoders_read(options, make):
  family = {name: dict(fields) for name, fields in plan.families()['sdxl'].items()}
  family['unet'] |= dict(block_out_channels=(32, 64, 128), attention_head_dim=4)
  family['unet'] |= dict(transformer_layers_per_block=1, layers_per_block=1)
  for name in ('text_encoder', 'text_encoder_2'):
    family[name] |= dict(num_hidden_layers=2)
  config = depth.get_config(options)
  config.data.batch_size = config.accumulate = config.mesh.fsdp = 1
  program = make(config, planning.prior(config.prior, family), 64, jax.devices())
  jax.eval_shape(program.function, *program.arguments.values())


def test_a_plan_without_weights_is_that_of_the_run(prior, shapes_only, tmp_path):
  config = tiny.load('depth.py:tiny,method=finetune', shapes_only)
  shapes = planning.prior(config.prior, None)
  found = planning.compiled(planning.training(config, shapes, tiny.SIZE, jax.devices()))
  config.prior.path = str(prior)
  run = experiment(config, tmp_path)
  batch = next(run.batches)
  del batch['present'], batch['sizes']  # SDXL's.
  size = lambda *trees: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))
  given = {kind: n for kind, n in found.held.items() if kind not in ('activations', 'results')}
  assert given == {
    'trained weights': size(run.abstract.params),
    'their average': size(run.abstract.target),
    'optimizer': size(run.abstract.opt, run.abstract.step),
    'frozen weights': size(run.frozen),
    'batch': size(batch),
    'key': 8,  # Two uint32.
  }
  assert found.trainable == sum(leaf.size for leaf in run.abstract.params.values())
  assert found.total == found.trainable + sum(leaf.size for leaf in run.frozen.values())
  assert found.held['activations'] > 0 and found.cost.collectives == {}
  assert found.peak == sum(found.held.values())


@pytest.mark.parametrize('way', ['cache', 'prepared'])
def test_what_is_encoded_ahead_is_in_the_batch_as_a_run_has_it(way, prior, shapes_only, tmp_path):
  config = tiny.load('depth.py:tiny', shapes_only)
  shapes, real = planning.prior(config.prior, None), tiny.load('depth.py:tiny', prior)
  if way == 'cache':
    config.data.cache = real.data.cache = 4
  else:
    prepare.run(real, tmp_path / 'shards', count=4, shards=1, batch_size=2)
    for each in (config, real):
      each.data.source, each.data.cache = dict(name='prepared', path=str(tmp_path / 'shards')), 0
  networks, *_ = planning.networks_of(config, shapes)
  planned = planning.batch_shapes(config, shapes, networks, tiny.SIZE)
  batch = next(experiment(real, tmp_path / 'run').batches)
  unread = {'present', 'sizes', 'image_deviation'}
  assert {name: leaf.shape for name, leaf in planned.items()} == {
    name: leaf.shape for name, leaf in batch.items() if name not in unread
  }


def test_a_plan_of_sampling_draws_what_a_run_would(prior, shapes_only):
  config = tiny.load('depth.py:tiny', shapes_only)
  shapes = planning.prior(config.prior, None)
  one, four = (
    planning.compiled(planning.sampling(config, shapes, tiny.SIZE, jax.devices(), steps))
    for steps in (1, 4)
  )
  assert one.held['weights'] == four.held['weights'] == 4 * one.total
  # What does not depend on the number of steps: the text, the condition, the autoencoder.
  once = (4 * one.flops - four.flops) / 3
  assert 0 < once < one.flops < four.flops < 4 * one.flops
  out = 2 * tiny.SIZE**2 * 3 * 4  # Two images, float32.
  assert one.held['results'] == out


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
  again, numbers = '--compare=plan.json', '--json=plan.json'
  odd = [[*command, '--resolution=33', f'--program={name}'] for name in ('train', 'sample')]
  commanded = [[*command, numbers], [*command, again], [*command, '--family=sd99'], *odd]
  done, compared, wrong, *cut = commands.run(commanded, cwd=tmp_path)
  assert done.code == 0, done.err[-2000:]
  assert 'depth_tiny_finetune, train, on cpu:4, 32 px, a batch of 8' in done.out
  assert 'Compiling train for cpu:4, 32 px, a batch of 8 ...' in done.err
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert found['chips'] == 4 and found['program'] == 'train' and found['resolution'] == '32'
  reduced = found['received_mib']['all-reduce']  # The gradients, float32.
  assert reduced == pytest.approx(4 * found['parameters_trained'] / 2**20, abs=0.1)
  assert compared.code == 0 and '(1.000 of the earlier)' in compared.out
  assert wrong.code == 1 and re.fullmatch(r"error: Unknown family 'sd99'.*'sd21'.*\n", wrong.err)
  for refused in cut:
    assert refused.code == 1 and 'multiple of 2; choose 32 x 32' in refused.err.splitlines()[-1]


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


@pytest.mark.parametrize(
  'complaint',
  [
    'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. '
    'Used 503.68G of 15.75G hbm. Exceeded hbm capacity by 487.93G.',
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries '
    '(503.68G) exceeds available HBM (15.75G).',
  ],
)
def test_too_little_memory_is_a_sentence(complaint):
  def compile():
    raise jax.errors.JaxRuntimeError(complaint)

  with pytest.raises(UserError, match='needs 503.68G of HBM on each chip, which has 15.75G'):
    planning.compile_or_explain(SimpleNamespace(compile=compile))


def test_a_folder_that_is_missing_is_named():
  with pytest.raises(UserError, match='nowhere'):
    planning.prior(ConfigDict(dict(path='nowhere')), None)


@pytest.mark.parametrize('topology', ['cpu:foo', 'cpu:0', 'cpu:-1'])
def test_a_number_of_devices_that_is_none_is_refused(topology):
  with pytest.raises(UserError, match=f"no topology '{topology}'"):
    topologies.cpus(topology)


@pytest.mark.parametrize(
  ('name', 'found'),
  [
    ('v5e:4x4', ('v5e', '4x4')),
    ('v5e-16', ('v5e', '4x4')),
    ('v5litepod-8', ('v5e', '2x4')),
    ('v5p-32', ('v5p', '2x2x4')),  # Google counts its cores, of which a chip has two.
    ('v4-8', ('v4', '2x2x1')),
    ('v6e:16x16', ('v6e', '16x16')),
    ('cpu:4', ('cpu', '4')),
    ('here', ('here', '')),
  ],
)
def test_topologies_have_our_names_and_googles(name, found):
  assert topologies.named(name) == found


@pytest.mark.parametrize(
  ('name', 'choices'),
  [
    ('v9:2x2', "choose 'cpu:N', 'here', or one of .* 'v5e:2x2'"),
    ('v5e', "'v5e:2x2'"),
    ('v5e:banana', r'v5e:4x4 \(v5e-16\)'),
    ('v5e:2x2x2', r'v5e:4x4 \(v5e-16\)'),
    ('v5e-7', r'v5e:4x4 \(v5e-16\)'),
    ('v5p:4x4', r'v5p:2x2x4 \(v5p-32\)'),
    ('v5p-9', r'v5p:2x2x4 \(v5p-32\)'),
  ],
)
def test_a_topology_that_is_none_names_the_choices(name, choices):
  with pytest.raises(UserError, match=f"There is no topology '{name}'; .*{choices}"):
    topologies.named(name)


@pytest.mark.parametrize(('topology', 'cached'), [('v5e:4x4', False), ('cpu:4', True)])
def test_programs_for_tpus_that_are_not_there_are_not_cached(topology, cached):
  lines = [
    'import jax',
    'from cdd.runs import topologies',
    f'topologies.prepare({topology!r})',
    'print(jax.config.jax_enable_compilation_cache)',
  ]
  command = [sys.executable, '-c', '; '.join(lines)]
  assert subprocess.run(command, capture_output=True, text=True).stdout == f'{cached}\n'


def test_a_batch_or_a_mesh_that_does_not_fit_the_devices_is_refused_before_compiling(shapes_only):
  config = tiny.load('depth.py:tiny', shapes_only)
  shapes, four = planning.prior(config.prior, None), jax.devices() * 4
  for make in (planning.training, lambda *these: planning.sampling(*these, steps=1)):
    config.data.batch_size, config.mesh = 6, dict(data=-1, fsdp=1)
    with pytest.raises(UserError, match='batch_size=6 cannot be divided among 4 devices'):
      make(config, shapes, tiny.SIZE, four)
    config.mesh.fsdp = 3
    with pytest.raises(UserError, match='fsdp=3, tensor=1 does not divide 4 devices'):
      make(config, shapes, tiny.SIZE, four)


CHIP = SimpleNamespace(device_kind='TPU v5 lite', coords=(0, 0, 0), slice_index=0)


def plan_of(kernels=0.0, **cost):
  cost = dict(cycles=3e6, bytes=1.638e9, collectives={}, silent={}, unknown=0) | cost
  held = {'trained weights': 2**30, 'activations': 15 * 2**30, 'results': 0}
  return planning.Plan(10, 20, 4, held, 1.97e11, kernels, hlo.Cost(**cost), 3.0)


def test_times_are_bounds_by_the_published_rates_of_a_chip():
  found = estimates.fields(plan_of(collectives={'all-reduce': 10**9}), 'v5e:1x1', [CHIP])
  assert found['milliseconds'] == pytest.approx(dict(work=1, memory=2, links=10, cycles=2))
  assert found['mfu'] == pytest.approx(dict(roofline=0.1, cycles=0.5))
  assert found['tflop_per_image'] == pytest.approx(0.197 / 4)
  assert found['memory_gib'] == {'trained weights': 1, 'activations': 15} and estimates.fits(found)
  said = estimates.lines(found)
  assert '16.00 GiB of 16 GiB: fits' in said and '50.0% by cycles' in said


def test_fused_kernels_take_at_least_their_work_at_the_peak():
  found = estimates.fields(plan_of(kernels=0.985e11), 'v5e:1x1', [CHIP])
  assert found['milliseconds']['cycles'] == pytest.approx(2.5)
  assert found['mfu']['cycles'] == pytest.approx(0.4)


def test_parts_that_have_no_room_together_are_said_not_to_fit():
  plan = plan_of()._replace(held={'activations': 17 * 2**30})
  found = estimates.fields(plan, 'v5e:1x1', [CHIP])
  assert not estimates.fits(found) and '17.00 GiB of 16 GiB: DOES NOT FIT' in estimates.lines(found)


def test_numbers_are_compared_with_those_of_an_earlier_plan():
  now, before = (estimates.fields(plan_of(bytes=n), 'v5e:1x1', [CHIP]) for n in (6e8, 8e8))
  said = estimates.lines(now, json.loads(json.dumps(before)))
  assert re.search(r'read and written +0.60 GB .*\(0.750 of the earlier\)', said)
  assert re.search(r'cycles +3.00 million, by the compiler \(1.000 of the earlier\)', said)


def test_devices_whose_rates_are_not_known_get_no_times():
  found = estimates.fields(plan_of(cycles=None), 'here', jax.devices())
  assert found['milliseconds'] == {} == found['mfu'] and found['chips'] == 1
  assert 'time at least' not in estimates.lines(found)


@pytest.mark.parametrize('most', [0, 1, 2, 3, 37, 1000])
@pytest.mark.parametrize('bend', [0.0, 0.2])
def test_the_largest_batch_is_found_in_few_tries(most, bend):
  tries = []

  def peak(number):  # About linear; beyond the capacity the compiler may refuse.
    tries.append(number)
    memory = 1 + 9 * number / (most + 0.5) * (1 + bend * min(1, number / (most + 0.5))) / (1 + bend)
    return memory if memory < 13 else None

  found, sure = largest(peak, 10)
  assert found == most and sure or (bend and not sure and 0.95 * most < found <= most)
  assert len(set(tries)) == len(tries) <= 10


def test_it_is_known_whether_a_larger_batch_was_seen_not_to_fit():
  assert largest(lambda number: number, 10) == (10, True)
  found, sure = largest(lambda number: number / 1000, 10)
  assert found <= 4096 and not sure
