"""Patches of latents: nothing is lost, and a prior may ask for them of an autoencoder it reads."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from cdd.core.errors import UserError
from cdd.models import vae
from cdd.pretrained import priors


@pytest.fixture(scope='module')
def networks(prior):
  """(networks, params) with patches of 1 and of 2."""

  def load(patch):
    spec = ConfigDict(dict(path=str(prior), replace=dict(vae=dict(patch=patch))))
    pretrained = priors.load(spec, prior.parent, ())
    vae_alone = {'vae': pretrained.configs['vae']}  # The U-Net is not made for patches.
    pretrained = pretrained._replace(configs=vae_alone)
    model = ConfigDict(dict(adapter=dict(name='none'), dtype='float32'))
    return priors.networks(model, pretrained)[0], pretrained.params

  return {patch: load(patch) for patch in (1, 2)}


def test_a_patch_becomes_the_channels_of_one_position():
  x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  y = np.asarray(vae.stacked(jnp.asarray(x), 2))
  assert y.shape == (2, 2, 3, 12)
  np.testing.assert_array_equal(y[1, 0, 2], x[1, :2, 4:].reshape(-1))
  np.testing.assert_array_equal(vae.spread(jnp.asarray(y), 2), x)


def test_latents_in_patches_are_the_same_latents_and_decode_alike(networks):
  images = jax.random.uniform(jax.random.key(0), (1, tiny.SIZE, tiny.SIZE, 3))
  (plain, params), (patched, _) = networks[1], networks[2]
  latents, stacked = plain.encode(params, images), patched.encode(params, images)
  assert stacked.shape == patched.latent_shape(images.shape)
  assert (patched.factor, patched.channels) == (2 * plain.factor, 4 * plain.channels)
  np.testing.assert_allclose(vae.spread(stacked, 2), latents, rtol=1e-6)
  np.testing.assert_allclose(
    patched.decode(params, stacked), plain.decode(params, latents), rtol=1e-6, atol=1e-6
  )


@pytest.mark.parametrize('patch', [1, 2])
def test_a_size_that_latents_would_cut_is_refused_where_they_are_made(networks, patch):
  found, params = networks[patch]
  images = jnp.zeros((1, tiny.SIZE + 1, tiny.SIZE, 3))
  for make in (partial(found.encode, params), lambda images: found.latent_shape(images.shape)):
    with pytest.raises(UserError, match=f'multiple of {found.factor}; choose {tiny.SIZE} x'):
      make(images)
