"""Every entry of every registry against its contract."""

import ast
import inspect
import types

import aligned
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from PIL import Image

from cdd import assets
from cdd.core.registry import bind
from cdd.core.types import Batch, Condition, Nets, Text
from cdd.data import SOURCES, TASKS
from cdd.data.degradations import DEGRADATIONS
from cdd.data.degradations.degradation import Degradation
from cdd.data.tasks.task import Task
from cdd.diffusion.distances import DISTANCES
from cdd.diffusion.predictors import PREDICTORS
from cdd.diffusion.process import Pair, compose, decompose
from cdd.diffusion.samplers import SAMPLERS, loop
from cdd.diffusion.samplers.sampler import Sampler
from cdd.diffusion.schedules import SCHEDULES, Schedule
from cdd.diffusion.times import SAMPLE_T
from cdd.methods import METHODS
from cdd.methods.method import Method
from cdd.metrics import METRICS
from cdd.metrics.metric import Metric
from cdd.models import assemble, functional
from cdd.models.adapters import ADAPTERS
from cdd.models.adapters.adapter import Spec, parameters
from cdd.models.networks import SPACES
from cdd.models.unet import UNet2DConditionModel, UNetConfig
from cdd.runs.objective import NETWORKS
from cdd.training.boards import BOARDS
from cdd.training.sharding import MODES
from cdd.training.targets import TARGETS

# Those whose entries are functions or factories of the same name.
NAMED = dict(
  tasks=TASKS,
  sources=SOURCES,
  degradations=DEGRADATIONS,
  samplers=SAMPLERS,
  schedules=SCHEDULES,
  predictors=PREDICTORS,
  distances=DISTANCES,
  sample_t=SAMPLE_T,
  targets=TARGETS,
  modes=MODES,
)
# What the entries that have no defaults for all settings are tried with.
SETTINGS = dict(
  super_resolution=dict(factor=2, degradation=dict(name='simple')),
  image_folder=dict(path=assets.PHOTOS, size=16, split='test', length=8),
  photos=dict(size=16, split='test', length=8),
  scenes=dict(size=16, length=8),
  mixture=dict(sources=[dict(name='scenes', size=16, length=4)] * 2),
  controlnet=dict(hint_widths=(4, 8)),
  t2i_adapter=dict(kind='full_adapter_xl', downscale_factor=4, num_res_blocks=1),
)
RNG = np.random.default_rng(0)
shape_of = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)
Z = shape_of(2, 8, 8, 4)


def made(table, name):
  """What the factory of a name makes."""
  return bind(table, dict(name=name, **SETTINGS.get(name, {})), 'entry')()


def positional(function):
  """The names of the arguments that may be given by their place."""
  kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
  return [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds]


def each(table):
  return pytest.mark.parametrize('name', list(table))


@pytest.mark.parametrize('kind', NAMED)
def test_entries_are_named_as_their_functions_say_what_they_do_and_take_no_extra_by_place(kind):
  arguments = dict(
    sources=['needs'],
    predictors=['online', 'real', 'teacher'],
    distances=['a', 'b', 'weight'],
    sample_t=['rng', 'batch', 'dt', 'num_steps'],
    targets=['target', 'params', 'step'],
    modes=['path', 'shape', 'mesh'],
  )
  for name, entry in NAMED[kind].items():
    assert entry.__name__ == name
    assert inspect.getdoc(entry), name
    assert positional(entry) == arguments.get(kind, []), name


def test_the_tables_of_every_package_are_walked_here():
  walked = {id(table) for table in (*NAMED.values(), ADAPTERS, BOARDS, METHODS, METRICS)}
  for path in (tiny.ROOT / 'cdd').rglob('__init__.py'):
    tables = [
      node.targets[0].id
      for node in ast.parse(path.read_text()).body
      if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
      if getattr(node.value.func, 'id', '') == 'dict'
    ]
    name = '.'.join(path.relative_to(tiny.ROOT).parent.parts)
    module = __import__(name, fromlist=['_'])
    assert {id(getattr(module, table)) for table in tables} <= walked, (name, tables)


def check_example(example, size=None):
  assert isinstance(example.pop('caption'), str)
  image = example['image']
  assert image.dtype == np.float32 and image.shape[2:] == (3,)
  assert image.min() >= 0 and image.max() <= 1
  assert size is None or image.shape[:2] == size
  sizes = example.pop('sizes', np.float32([*image.shape[:2], 0, 0, *image.shape[:2]]))
  assert sizes.dtype == np.float32 and sizes[4:].tolist() == [*image.shape[:2]]
  assert {np.shape(array)[:2] for array in example.values()} == {image.shape[:2]}


@each(TASKS)
def test_a_task_makes_aligned_arrays_of_an_example_and_a_condition_of_a_users_picture(name):
  task = made(TASKS, name)
  assert isinstance(task, Task)
  image = RNG.uniform(size=(16, 24, 3)).astype(np.float32)
  more = dict(depth=1 + image[..., 0], edited_image=1 - image, condition=image[::-1])
  example = dict(image=image, caption='a ball', **more)
  assert set(task.needs) <= example.keys()
  draw = lambda: task.draw(dict(example), np.random.default_rng(3))
  out, again = draw(), draw()
  assert out.keys() == again.keys()
  assert all(np.array_equal(out[key], again[key]) for key in out)
  assert all(array.dtype == np.float32 for key, array in out.items() if key != 'caption')
  check_example(out, size=(16, 24))
  hole = np.zeros((16, 24, 1))
  hole[:, 12:] = 1  # What is transparent is painted by the task that asks for it.
  picture = Image.fromarray((255 * np.concatenate([image, 1 - hole], axis=2)).astype(np.uint8))
  condition = task.from_picture(picture)
  assert condition.dtype == np.float32 and condition.ndim == 3
  assert condition.shape[2] == 3 + ('mask' in out)
  assert condition.min() >= 0 and condition.max() <= 1


# Those of `prepared` are made by a run and have no picture: tests/runs/test_prepare.py.
@each([name for name in SOURCES if name != 'prepared'])
def test_a_source_is_random_access_to_examples_that_are_always_the_same(
  name, tmp_path, monkeypatch
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  settings = SETTINGS.get(name, dict(size=16, length=8))
  if name in aligned.WRITTEN:
    settings |= aligned.WRITTEN[name](tmp_path)
  spec = dict(name=name, **settings)
  source, again = (bind(SOURCES, spec, 'source')() for _ in range(2))
  assert len(source) == 8
  for index in (7, 0):
    one, other = source[index], again[index]
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) for key in one)
    check_example(dict(one), size=(16, 16))
  with pytest.raises(IndexError):
    source[8]
  assert '0x' not in repr(source)  # It stands in messages, the same in every run.


@each(DEGRADATIONS)
def test_a_degradation_makes_a_smaller_picture_by_its_generator_alone(name):
  degradation = bind(DEGRADATIONS, dict(name=name, factor=4), 'degradation')()
  assert isinstance(degradation, Degradation)
  assert (degradation.on_host is None) != (degradation.on_device is None)
  image = RNG.uniform(size=(16, 24, 3)).astype(np.float32)
  before = image.copy()
  if degradation.on_host is not None:
    small = [degradation.on_host(image, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert small[0].dtype == np.uint8
  else:
    run = jax.jit(degradation.on_device)
    target, small = zip(*(run(image, jax.random.key(seed)) for seed in (0, 0, 1)), strict=True)
    assert target[0].shape == image.shape and target[0].dtype == small[0].dtype == np.float32
    assert all(out.min() >= 0 and out.max() <= 1 for out in (*target, *small))
  assert small[0].shape == (4, 6, 3)
  assert np.array_equal(small[0], small[1])
  assert np.array_equal(small[0], small[2]) == (name == 'bicubic')  # Which draws nothing.
  assert np.array_equal(image, before)


UNET = UNetConfig(**{k: v for k, v in tiny.UNET.items() if k in UNetConfig._fields})
WORDS = Text(shape_of(2, 5, 16))


@each(ADAPTERS)
def test_an_adapter_reads_what_it_declares_and_keeps_the_shapes_of_the_encoder(name):
  kind, settings = ADAPTERS[name], SETTINGS.get(name, {})
  assert inspect.getdoc(kind), name
  assert positional(kind.__init__) == ['self', 'config'], name
  assert parameters(kind).keys() >= settings.keys()
  reads = nnx.eval_shape(lambda: kind(UNET, rngs=functional.Keys(0), **settings)).reads
  assert set(reads.values()) <= SPACES.keys()
  assert kind.copies_unet_below is None or isinstance(kind.copies_unet_below, str)
  make = lambda: UNet2DConditionModel(UNET, rngs=functional.Keys(0))
  plain, params = functional.abstract(make)
  params = {f'unet.{path}': np.zeros(leaf.shape, leaf.dtype) for path, leaf in params.items()}
  of_space = dict(pixel=shape_of(2, 16, 16, 3))
  c = Condition({key: of_space.get(space, Z) for key, space in reads.items()}, WORDS)
  spec = Spec(name, UNET, settings)
  make, _, added = assemble.with_adapter(spec, None, UNET, params, jnp.float32)
  apply, paths = functional.bind(nnx.eval_shape(make))
  assert added.keys() <= paths.keys() <= {*params, *added}
  whole = {
    path: shape_of(*leaf.shape, dtype=leaf.dtype) for path, leaf in {**params, **added}.items()
  }
  index = shape_of(2, dtype=jnp.int32)
  out = jax.eval_shape(lambda p, z, c, i: apply(p, '__call__', z, c, i), whole, Z, c, index)
  assert (out.shape, out.dtype) == (Z.shape, Z.dtype)


class Tenth:
  """`Denoise` whose velocity is a tenth of z."""

  def __call__(self, z, t, s):
    return 0.1 * z

  def rows(self, rows):
    return self


def last(table):
  """The last entry of a table; all of those need no settings."""
  return table[max(table)]


@each(METHODS)
def test_a_method_names_networks_that_exist_and_its_loss_gives_what_it_plots(name):
  method = METHODS[name]
  assert isinstance(method, Method) and inspect.getdoc(method.loss)
  assert positional(method.loss) == ['nets', 'batch', 'rng', 'step']
  keywords = {p for p in inspect.signature(method.loss).parameters} - {*positional(method.loss)}
  assert {'schedule', 'num_steps'} | method.settings.keys() <= keywords
  assert set(method.networks) <= NETWORKS.keys() == set(Nets._fields)
  assert method.sampler is None or method.sampler in SAMPLERS
  networks = dict(
    dict.fromkeys(('online', 'target', 'teacher'), Tenth()),
    encode=lambda images: images[:, ::4, ::4].mean(-1, keepdims=True) * jnp.ones((1, 1, 1, 4)),
    decode=lambda z: jnp.repeat(jnp.repeat(z[..., :3], 4, 1), 4, 2),
    moments=lambda images: (images[:, ::4, ::4], images[:, ::4, ::4]),
    render=lambda z: jnp.repeat(jnp.repeat(z, 4, 1), 4, 2),
  )
  nets = Nets(**{key: networks[key] for key in method.networks})
  schedule = SCHEDULES['cosine'](num_steps=8)
  settings = {key: last(table) for key, table in method.settings.items()}

  def loss(x, images):
    key = jax.random.key(0)
    shared = dict(schedule=schedule, num_steps=8, **settings)
    return method.loss(nets, Batch(x, images), key, jnp.int32(0), **shared)

  value, metrics = jax.eval_shape(loss, Z, shape_of(2, 32, 32, 3))
  assert value.shape == () and all(leaf.shape == () for leaf in metrics.values())
  assert method.plots[0] == 'loss' and set(method.plots[1:]) <= metrics.keys()


@each(SAMPLERS)
def test_a_sampler_keeps_the_shapes_of_z_and_of_its_memory(name):
  sampler = SAMPLERS[name]()
  assert isinstance(sampler, Sampler)
  assert sampler.steps >= 1 and isinstance(sampler.few, bool)
  settings = dict(schedule=SCHEDULES['cosine'](num_steps=8), times=(8, 4, 0))

  def draw(z, rng):
    return loop.run(sampler, lambda z, t, s: 0 * z, z, rng, **settings)

  for count in ((), (2,)):  # One key, or one per image.
    rng = jax.eval_shape(lambda count=count: jax.random.split(jax.random.key(0), count))
    out = jax.eval_shape(draw, Z, rng)
    assert (out.shape, out.dtype) == (Z.shape, Z.dtype)


@pytest.fixture(scope='module')
def pictures():
  """Two batches of photographs, and noisy copies of them."""
  source = SOURCES['photos'](split='test', size=32)
  real = np.stack([source[index]['image'] for index in range(8)])
  noisy = np.clip(real + 0.2 * RNG.normal(size=real.shape), 0, 1).astype(np.float32)
  return [(noisy[part], real[part]) for part in (slice(0, 4), slice(4, 8))]


@each(METRICS)
def test_a_metric_streams_over_batches_in_any_order_and_knows_which_way_is_better(name, pictures):
  metric = METRICS[name]
  assert isinstance(metric, Metric)
  assert metric.label and metric.digits >= 0 and metric.better in (min, max)
  assert isinstance(metric.note, str)

  def measured(batches):
    state = metric.init()
    for images, truth in batches:
      before = np.concatenate([images[:, :, :16], truth[:, :, 16:]], axis=2)
      references = dict(image=truth, condition=before)
      state = metric.update(state, images, *(references[name] for name in metric.reads))
    return metric.result(state)

  value = measured(pictures)
  assert isinstance(value, float)
  assert measured(pictures[::-1]) == pytest.approx(value, rel=1e-9)
  perfect = measured([(real, real) for _, real in pictures])
  assert perfect != value
  if 'image' in metric.reads:  # One that reads the condition alone knows nothing of the truth.
    assert metric.better(value, perfect) == perfect
  assert metric.label in metric.heading and float(metric.shown(value)) == round(
    value, metric.digits
  )


@each(SCHEDULES)
def test_a_schedule_is_a_table_of_as_many_steps_as_asked(name):
  schedule = SCHEDULES[name](num_steps=12)
  assert isinstance(schedule, Schedule) and schedule.num_steps == 12
  t = jnp.array([0, 5, 12]).reshape(3, 1, 1, 1)
  level = schedule(t)
  assert {column.shape for column in level} == {(3, 1, 1, 1)}
  assert {column.shape for column in schedule.table} == {(13,)}
  pair = Pair(jnp.ones((3, 2, 2, 1)), jnp.full((3, 2, 2, 1), 2.0))
  z = compose(pair, level)
  np.testing.assert_allclose(z[0], 1.0)  # Clean.
  back = decompose(z, level.alpha_dot * pair.x + level.sigma_dot * pair.eps, level)
  np.testing.assert_allclose(back.eps, pair.eps, atol=1e-5)


@each(PREDICTORS)
def test_a_predictor_gives_a_pair_and_only_the_teachers_own_asks_the_teacher(name):
  pairs = [
    Pair(jnp.full((1, 1, 1, 1), 2.0 * n), jnp.full((1, 1, 1, 1), 2.0 * n + 1)) for n in range(3)
  ]
  asked = []
  out = PREDICTORS[name](pairs[0], pairs[1], lambda: asked.append(1) or pairs[2])
  assert isinstance(out, Pair)
  assert bool(asked) == (name == 'teacher')
  assert out.x.item() in (0, 2, 4) and out.eps.item() in (1, 3, 5)


@each(DISTANCES)
def test_a_distance_is_a_weighted_mean_that_is_zero_of_equals(name):
  a, b = (jnp.asarray(RNG.normal(size=(2, 3, 3, 1)), jnp.float32) for _ in range(2))
  distance = DISTANCES[name]
  assert distance(a, b).shape == () and float(distance(a, b)) > 0
  np.testing.assert_allclose(distance(a, a), 0, atol=1e-7)
  weight = jnp.array([2.0, 0.0]).reshape(2, 1, 1, 1)
  np.testing.assert_allclose(distance(a, b, weight), distance(a[:1], b[:1]), rtol=1e-6)


@each(SAMPLE_T)
def test_times_are_drawn_from_dt_to_t(name):
  t = np.asarray(SAMPLE_T[name](jax.random.key(0), 64, 3, 12))
  assert t.shape == (64, 1, 1, 1) and t.dtype == np.int32
  assert t.min() >= 3 and t.max() <= 12


@each(SPACES)
def test_a_space_gives_an_array_of_the_batch_that_is_named(name):
  networks = types.SimpleNamespace(
    latents=lambda params, raw, name, tile: raw[name][:, ::2, ::2] * 3 - 1,
    scale=3.0,
    shift=1.0,
    factor=2,
  )
  raw = dict(other=jnp.ones((2, 4, 4, 3)), condition=jnp.full((2, 4, 4, 3), 0.5))
  out = SPACES[name](networks, {}, raw, 'condition', None)
  assert inspect.getdoc(SPACES[name])
  expected = dict(pixel=0.5, mask=0.5, latent=0.5, unscaled_latent=0.5 / 3 + 1)[name]
  np.testing.assert_allclose(out, expected, rtol=1e-6)
