"""Small U-Nets of every Stable Diffusion family beside the reference library's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_peers as peers

from cdd.models import functional
from cdd.models.adapted import Adapted
from cdd.models.adapters import ADAPTERS
from cdd.models.unet import UNet2DConditionModel, UNetConfig, rematerialized

SD21 = dict(attention_head_dim=(1, 2, 2, 4), use_linear_projection=True)
FAMILIES = dict(
  sd15=(dict(peers.FIELDS, up_block_types=peers.UP), peers.TEXT),
  sd21=(dict(peers.FIELDS, up_block_types=peers.UP, **SD21), peers.TEXT),
  sdxl=(dict(peers.XL_FIELDS, up_block_types=peers.XL_UP), peers.XL_TEXT),
)


def ours(theirs, fields):
  make = lambda: UNet2DConditionModel(UNetConfig(**fields), rngs=functional.Keys(0))
  apply, shapes = functional.abstract(make)
  return apply, peers.tree_of(theirs, shapes)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('size', [(8, 8), (9, 13)])  # The second halves with a remainder.
def test_a_family_equals_diffusers(family, size):
  fields, text = FAMILIES[family]
  theirs = peers.shaken(peers.torch_unet(**fields))
  z = np.random.default_rng(3).normal(size=(2, *size, 4)).astype(np.float32)
  apply, params = ours(theirs, fields)
  out = apply(params, '__call__', z, jnp.asarray(peers.INDEX), text)
  peers.close(out, peers.torch_predict(theirs, z, text=text), 1e-5)


@pytest.mark.parametrize('name', ['mu_mix', 'controlnet'])
def test_computing_the_layers_anew_changes_no_gradient_and_keeps_less(name):
  settings = dict(controlnet=dict(hint_widths=(4, 8, 8))).get(name, {})
  image = dict(mu_mix=peers.LATENTS, controlnet=peers.PIXELS)[name]
  c = peers.seen(image)

  def whole():
    unet = UNet2DConditionModel(peers.SMALL, rngs=functional.Keys(0))
    return Adapted(unet, ADAPTERS[name](peers.SMALL, rngs=functional.Keys(1), **settings))

  apply, params = functional.bind(whole())
  rng = np.random.default_rng(4)
  params = {k: leaf + 0.05 * rng.normal(size=leaf.shape) for k, leaf in params.items()}
  anew, _ = functional.abstract(lambda: rematerialized(whole()))

  def loss(apply, params):
    return (apply(params, '__call__', peers.Z, c, jnp.asarray(peers.INDEX)) ** 2).mean()

  losses = [functools.partial(loss, f) for f in (apply, anew)]
  plain, other = (jax.jit(jax.grad(f))(params) for f in losses)
  for path, gradient in plain.items():
    np.testing.assert_allclose(other[path], gradient, rtol=1e-4, atol=1e-6, err_msg=path)
  held = sum(leaf.size for leaf in params.values())
  backward = (jax.eval_shape(lambda p, f=f: jax.vjp(f, p)[1], params) for f in losses)
  extra = [sum(leaf.size for leaf in jax.tree.leaves(f)) - held for f in backward]
  print('activations kept:', extra)
  assert extra[1] < 0.6 * extra[0]
