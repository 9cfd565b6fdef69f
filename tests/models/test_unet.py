"""Small U-Nets of every Stable Diffusion family beside the reference library's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_peers as peers

from cdd.core.errors import UserError
from cdd.models import functional
from cdd.models.adapted import Adapted
from cdd.models.adapters import ADAPTERS
from cdd.models.remat import SAVED, rematerialized
from cdd.models.unet import UNet2DConditionModel, UNetConfig

SD21 = dict(attention_head_dim=(1, 2, 2, 4), use_linear_projection=True)
FAMILIES = dict(
  sd15=(dict(peers.FIELDS, up_block_types=peers.UP), peers.TEXT),
  sd21=(dict(peers.FIELDS, up_block_types=peers.UP, **SD21), peers.TEXT),
  lists=(  # As tiny-sd: levels of their own depth, and no middle block.
    dict(peers.FIELDS, up_block_types=peers.UP, layers_per_block=(1, 2, 1, 2), mid_block_type=None),
    peers.TEXT,
  ),
  sdxl=(dict(peers.XL_FIELDS, up_block_types=peers.XL_UP), peers.XL_TEXT),
)


def ours(theirs, fields):
  make = lambda: UNet2DConditionModel(UNetConfig(**fields), rngs=functional.Keys(0))
  apply, shapes = functional.abstract(make)
  return apply, peers.tree_of(theirs, shapes)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_family_equals_diffusers(family):
  fields, text = FAMILIES[family]
  theirs = peers.shaken(peers.torch_unet(**fields))
  # 10 x 14, 5 x 7, 3 x 4: halved with a remainder and without.
  z = np.random.default_rng(3).normal(size=(2, 10, 14, 4)).astype(np.float32)
  apply, params = ours(theirs, fields)
  out = apply(params, '__call__', z, jnp.asarray(peers.INDEX), text)
  peers.close(out, peers.torch_predict(theirs, z, text=text), 1e-5)


def plain_and_anew(name, config, saved=()):
  """(loss, parameters) of an adapted U-Net, and the loss with its layers computed anew."""
  settings = dict(controlnet=dict(hint_widths=(4, 8, 8))).get(name, {})
  c = peers.seen(dict(mu_mix=peers.LATENTS, controlnet=peers.PIXELS)[name])

  def whole():
    unet = UNet2DConditionModel(config, rngs=functional.Keys(0))
    return Adapted(unet, ADAPTERS[name](config, rngs=functional.Keys(1), **settings))

  def loss(apply, params):
    return (apply(params, '__call__', peers.Z, c, jnp.asarray(peers.INDEX)) ** 2).mean()

  apply, shapes = functional.abstract(whole)
  anew, _ = functional.abstract(lambda: rematerialized(whole(), saved))
  return functools.partial(loss, apply), functools.partial(loss, anew), shapes


@pytest.mark.parametrize('name', ['mu_mix', 'controlnet'])
def test_computing_the_layers_anew_keeps_less(name):
  *losses, shapes = plain_and_anew(name, peers.SMALL)
  held = sum(leaf.size for leaf in shapes.values())
  backward = (jax.eval_shape(lambda p, f=f: jax.vjp(f, p)[1], shapes) for f in losses)
  extra = [sum(leaf.size for leaf in jax.tree.leaves(f)) - held for f in backward]
  print('activations kept:', extra)
  assert extra[1] < 0.6 * extra[0]


def test_what_is_saved_by_name_is_kept_and_an_unknown_name_refused():
  def kept(saved):
    _, loss, shapes = plain_and_anew('mu_mix', peers.SMALL, saved)
    leaves = jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(loss, p)[1], shapes))
    return sum(leaf.size for leaf in leaves)

  sizes = [kept(saved) for saved in ((), ('attention',), ('convolution',), SAVED)]
  assert sizes[0] < sizes[1] < sizes[3] and sizes[0] < sizes[2] < sizes[3]
  with pytest.raises(UserError, match="'gelu'.*attention.*convolution"):
    kept(('gelu',))


@pytest.mark.parametrize('saved', [(), SAVED])
def test_computing_the_layers_anew_changes_no_gradient(saved):
  down, up = ('DownBlock2D', 'CrossAttnDownBlock2D'), ('UpBlock2D', 'UpBlock2D')
  config = peers.SMALL._replace(down_block_types=down, up_block_types=up)
  *losses, shapes = plain_and_anew('controlnet', config, saved)
  rng = np.random.default_rng(4)
  params = {k: (0.2 * rng.normal(size=leaf.shape)).astype(np.float32) for k, leaf in shapes.items()}
  plain, other = (jax.jit(jax.grad(f))(params) for f in losses)
  assert all(np.any(leaf) for leaf in plain.values())
  for path, gradient in plain.items():
    np.testing.assert_allclose(other[path], gradient, rtol=1e-4, atol=1e-6, err_msg=path)
