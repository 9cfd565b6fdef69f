"""Adapters: name -> a class with the methods of `adapter.Adapter`."""

from cdd.models.adapters.concat import Concat
from cdd.models.adapters.controlnet import ControlNet
from cdd.models.adapters.mu_mix import MuMix
from cdd.models.adapters.none import NoAdapter
from cdd.models.adapters.t2i_adapter import T2IAdapter

ADAPTERS = dict(
  concat=Concat, controlnet=ControlNet, mu_mix=MuMix, none=NoAdapter, t2i_adapter=T2IAdapter
)
