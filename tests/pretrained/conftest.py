import shutil

import pytest
import torch_peers as peers


@pytest.fixture(scope='module')
def original(tmp_path_factory):
  folder = tmp_path_factory.mktemp('original')
  peers.torch_vae().save_pretrained(folder / 'vae')
  return folder


@pytest.fixture
def folder(original, tmp_path):
  """A pipeline that is an autoencoder alone, to break."""
  shutil.copytree(original, tmp_path / 'broken')
  return tmp_path / 'broken'
