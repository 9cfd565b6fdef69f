import pytest

from cdd.core import trees
from cdd.core.errors import UserError
from cdd.core.registry import bind, choose, make


def scale(x, *, by=2):
  return x * by


def test_a_spec_binds_its_settings():
  assert bind(dict(scale=scale), dict(name='scale', by=3), 'op')(4) == 12


def test_an_unknown_name_lists_the_choices():
  with pytest.raises(ValueError, match=r"Unknown sampler 'ddmi'; choose one of \['ddim'\]"):
    choose(dict(ddim=1), 'ddmi', 'sampler')


def test_an_unknown_setting_lists_what_the_function_takes():
  with pytest.raises(ValueError, match=r"Unknown setting 'bye' of op 'scale'.*\['by'\]"):
    bind(dict(scale=scale), dict(name='scale', bye=3), 'op')


def test_the_first_pattern_that_matches_wins():
  found = trees.match(
    [('adapter[.].*|mu', 'train'), ('.*', 'freeze')], ['adapter.w', 'mu', 'unet.w']
  )
  assert found == {'adapter.w': 'train', 'mu': 'train', 'unet.w': 'freeze'}


def test_an_unmatched_path_is_an_error_that_names_it():
  with pytest.raises(ValueError, match='unet.w'):
    trees.match([('adapter[.].*', 'train')], ['adapter.w', 'unet.w'])


def test_prefixes_come_and_go():
  tree = {'unet.a': 1, 'vae.b': 2}
  assert trees.select(tree, 'unet') == {'a': 1}
  assert trees.prefixed({'a': 1}, 'unet') == {'unet.a': 1}
  assert trees.split(tree, {'unet.a': 'x', 'vae.b': 'y'}) == {'x': {'unet.a': 1}, 'y': {'vae.b': 2}}


def test_a_factory_without_a_setting_that_it_needs_is_named():
  def folder(needs, /, *, size, seed=0):
    return needs, size, seed

  table = dict(folder=folder)
  assert make(table, dict(name='folder', size=3), 'source', 'image') == ('image', 3, 0)
  with pytest.raises(UserError, match="The source 'folder' needs the setting 'size'."):
    make(table, dict(name='folder', seed=1), 'source', 'image')
