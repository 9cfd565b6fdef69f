"""Adapters: how the U-Net's encoder is made to see the condition.

An adapter is an nnx.Module with `hints(c) -> hints`, what it makes of the condition alone, once per
image, and `features(unet, z, index, c, hints) -> features`, which calls `unet.encode` and hands to
`unet.decode`; `condition_space` ('latent' | 'unscaled_latent' | 'pixel' | 'none') says what it
wants of the condition's image, and `copies_unet_below` where in it a copy of the U-Net's encoder
begins (None: nowhere). One that needs another U-Net has a static method `prepare(config, params) ->
(config, params)` of the U-Net that it is added to.
"""

from cdd.models.adapters.concat import Concat
from cdd.models.adapters.controlnet import ControlNet
from cdd.models.adapters.mu_mix import MuMix
from cdd.models.adapters.none import NoAdapter
from cdd.models.adapters.t2i_adapter import T2IAdapter

ADAPTERS = dict(
  concat=Concat, controlnet=ControlNet, mu_mix=MuMix, none=NoAdapter, t2i_adapter=T2IAdapter
)
