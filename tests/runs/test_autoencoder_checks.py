"""A run that would train an autoencoder it cannot train is refused before it begins."""

import diffusers as reference
import pytest
import tiny
from ml_collections import ConfigDict

from cdd.core.errors import UserError
from cdd.models import components
from cdd.runs import loop, planning, program

TINY = components.OTHERS['AutoencoderTiny'].config()


def refused(config, configs, train=()):
  with pytest.raises(UserError) as error:
    program.check(config, configs, dict.fromkeys(train))
  assert '\n' not in str(error.value)
  return str(error.value)


def test_a_tiny_autoencoder_is_not_pretrained_and_a_kl_one_is(prior):
  config = tiny.load('pretrain.py:autoencoder', prior)
  said = refused(config, dict(vae=TINY))
  assert said.startswith("The method 'autoencoder' trains an AutoencoderKL; config.prior has an Au")
  program.check(config, dict(vae=components.COMPONENTS['vae'].config()), {'vae.a': None})
  program.check(config, {}, {'vae.a': None})


def test_a_pretraining_refuses_a_tiny_autoencoder_in_place_of_the_priors(prior, tmp_path):
  widths = dict(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8))
  blocks = dict(num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
  reference.AutoencoderTiny(**widths, **blocks).save_pretrained(tmp_path / 'taesd')
  config = tiny.load('pretrain.py:autoencoder_longer', prior)
  config.prior.vae = str(tmp_path / 'taesd')
  with pytest.raises(UserError, match='config.prior has an AutoencoderTiny'):
    loop.run(config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'checkpoints').exists()


def test_an_autoencoder_is_trained_by_no_method_of_the_unet(prior, tmp_path):
  config = tiny.load('depth.py:tiny', prior)
  config.trainable = (('unet.*|adapter.*|vae.*', 'train'), ('.*', 'freeze'))
  with pytest.raises(UserError, match="trains vae.decoder[.].*'conditional' leaves the auto"):
    loop.run(config, tmp_path / 'run')
  shapes = planning.prior(ConfigDict(dict(path=str(prior))), None)
  with pytest.raises(UserError, match="trains vae.decoder[.].*'conditional' leaves the auto"):
    planning.networks_of(config, shapes)
