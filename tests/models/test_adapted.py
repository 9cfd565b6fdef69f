import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_peers import SMALL, seen

from cdd.core import trees
from cdd.core.types import Text
from cdd.models import assemble, functional
from cdd.models.adapted import Adapted
from cdd.models.adapters import ADAPTERS
from cdd.models.time import Time
from cdd.models.unet import UNet2DConditionModel

# Only the middle attends: what an adapter adds is added to residual blocks alike.
CONFIG = SMALL._replace(down_block_types=('DownBlock2D',) * 2, up_block_types=('UpBlock2D',) * 2)
RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(2, 8, 8, 4)), jnp.float32)
TEXT = Text(jnp.asarray(RNG.normal(size=(2, 5, 12)), jnp.float32))
INDEX = jnp.array([10, 700])
LATENTS = jnp.asarray(RNG.normal(size=(2, 8, 8, 4)), jnp.float32)
PIXELS = jnp.asarray(RNG.uniform(size=(2, 32, 32, 3)), jnp.float32)
LATENT, PIXEL = seen(LATENTS, TEXT), seen(PIXELS, TEXT)
KINDS = [
  ('mu_mix', {}, LATENT),
  ('mu_mix', dict(per_level=True), LATENT),
  ('mu_mix', dict(sees_t=True), LATENT),
  ('controlnet', dict(hint_widths=(4, 8, 8)), PIXEL),
]


def adapted(name, settings):
  """(apply, params) of a U-Net with an adapter that starts as a copy of its encoder."""
  kind = ADAPTERS[name]
  plug = lambda: kind(CONFIG, rngs=nnx.Rngs(1), **settings)
  _, unet = functional.bind(UNet2DConditionModel(CONFIG, rngs=nnx.Rngs(0)))
  unet = trees.prefixed(unet, 'unet')
  apply, _ = functional.abstract(
    lambda: Adapted(UNet2DConditionModel(CONFIG, rngs=nnx.Rngs(0)), plug())
  )
  return apply, {**unet, **assemble.initial(kind, plug, unet)}


@pytest.mark.parametrize(('name', 'settings', 'c'), KINDS)
def test_at_initialisation_the_adapted_model_is_the_unconditional_one_exactly(name, settings, c):
  apply, params = adapted(name, settings)
  plain, _ = functional.abstract(lambda: UNet2DConditionModel(CONFIG, rngs=nnx.Rngs(0)))
  expected = plain(trees.select(params, 'unet'), '__call__', Z, INDEX, TEXT)
  assert np.array_equal(apply(params, '__call__', Z, c, INDEX), expected)


def test_the_condition_encoder_starts_as_a_copy_of_the_pretrained_encoder():
  _, params = adapted('mu_mix', {})
  copied = trees.select(params, 'adapter.encoder')
  assert copied
  assert all(np.array_equal(leaf, params['unet.' + path]) for path, leaf in copied.items())


def test_mu_moves_before_the_condition_encoder():
  apply, params = adapted('mu_mix', dict(per_level=True))
  loss = lambda params: (apply(params, '__call__', Z, LATENT, INDEX) ** 2).mean()
  grads = jax.grad(loss)(params)
  assert (np.abs(grads['adapter.mu']) > 0).all()
  encoder = trees.select(grads, 'adapter.encoder')
  assert all(not np.any(leaf) for leaf in encoder.values())
  moved = jax.grad(loss)({**params, 'adapter.mu': params['adapter.mu'] + 0.1})
  assert any(np.any(leaf) for leaf in trees.select(moved, 'adapter.encoder').values())


def test_equation_10_in_numpy():
  apply, params = adapted('mu_mix', dict(per_level=True))
  mu = np.array([0.2, -0.5, 0.9], np.float32)
  module, _ = functional.abstract(lambda: UNet2DConditionModel(CONFIG, rngs=nnx.Rngs(0)))
  unet = trees.select(params, 'unet')
  own = module(unet, 'encode', Z, Time(INDEX), TEXT)
  new = module(unet, 'encode', LATENTS, Time(jnp.zeros(2, jnp.int32)), TEXT)
  levels = [
    0,
    0,
    0,
    1,
  ]  # conv_in, the first level's layer and downsampler, the second level's layer.
  mixed = own._replace(
    skips=tuple(
      (1 - mu[k]) * a + mu[k] * b for k, a, b in zip(levels, own.skips, new.skips, strict=True)
    ),
    mid=(1 - mu[2]) * own.mid + mu[2] * new.mid,
  )
  expected = module(unet, 'decode', mixed, TEXT)
  got = apply({**params, 'adapter.mu': jnp.asarray(mu)}, '__call__', Z, LATENT, INDEX)
  np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(('name', 'settings', 'c'), KINDS)
def test_hints_computed_once_equal_hints_computed_at_every_step(name, settings, c):
  apply, params = adapted(name, settings)
  params = {path: leaf + 0.1 * (path.startswith('adapter')) for path, leaf in params.items()}
  hints = apply(params, 'hints', c)
  for index in (INDEX, INDEX // 2):
    once = apply(params, 'with_hints', Z, c, hints, Time(index))
    assert np.array_equal(once, apply(params, '__call__', Z, c, index))


def test_the_condition_changes_the_output_once_mu_has_moved():
  apply, params = adapted('mu_mix', {})
  params['adapter.mu'] = jnp.asarray(0.3)
  other = seen(LATENTS + 1, TEXT)
  a, b = (apply(params, '__call__', Z, c, INDEX) for c in (LATENT, other))
  assert np.abs(a - b).max() > 1e-3
