"""Examples encoded ahead: they train as those drawn on the way do, and are refused elsewhere."""

import json
import pickle

import jax
import numpy as np
import pytest
import tiny

from cdd.core.errors import UserError
from cdd.core.registry import bind
from cdd.data import SOURCES
from cdd.data.prepared import shard
from cdd.runs import loop, prepare
from cdd.training import writer

COUNT, SHARDS = 10, 3


def settings(prior):
  config = tiny.load('depth.py:tiny', prior)
  config.data.source.length = COUNT
  config.evaluation = None
  return config


@pytest.fixture(scope='module')
def folder(prior, tmp_path_factory):
  place = tmp_path_factory.mktemp('prepared') / 'shards'
  prepare.run(settings(prior), place, count=COUNT, shards=SHARDS, batch_size=4)
  return place


def source(folder, **more):
  return bind(SOURCES, dict(name='prepared', path=str(folder), **more), 'source')()


def from_prepared(prior, folder):
  config = settings(prior)
  config.data.source = dict(name='prepared', path=str(folder))
  return config


def losses(config, workdir):
  loop.run(config, workdir)
  return [row['loss'] for row in writer.read(workdir / 'log.jsonl') if 'loss' in row]


def test_a_run_on_prepared_examples_learns_what_one_that_encodes_on_the_way_learns(
  prior, folder, tmp_path
):
  online, ahead = settings(prior), from_prepared(prior, folder)
  for config in (online, ahead):
    config.data.caption_dropout = 0.5
  expected, found = losses(online, tmp_path / 'a'), losses(ahead, tmp_path / 'b')
  assert len(found) == 2 and np.isfinite(found).all()
  np.testing.assert_allclose(found, expected, rtol=5e-3)  # Half precision; another example: 10 %.
  assert expected[0] != expected[1]


def test_a_source_is_random_access_in_the_order_of_the_config_and_crosses_processes(prior, folder):
  examples = source(folder)
  scenes = bind(SOURCES, settings(prior).data.source, 'source')(('depth',))
  assert len(examples) == COUNT
  assert [examples[i]['caption'] for i in (9, 0)] == [scenes[i]['caption'] for i in (9, 0)]
  again = pickle.loads(pickle.dumps(examples))
  assert np.array_equal(again[4]['image_latents'], examples[4]['image_latents'])
  assert repr(examples) == "prepared('shards')"
  with pytest.raises(IndexError):
    examples[COUNT]


def test_the_posterior_is_drawn_if_asked_and_else_its_mode_is_taken(folder):
  drawing, plain = source(folder, sample_posterior=True), source(folder)
  mode = plain.draw(plain[1], np.random.default_rng(0))['image_latents']
  deviation = plain[1]['image_deviation']
  drawn = np.stack(
    [drawing.draw(drawing[1], np.random.default_rng(i))['image_latents'] for i in range(400)]
  )
  assert np.array_equal(mode, plain[1]['image_latents']) and (deviation > 0).all()
  z = (drawn - mode) / deviation
  assert abs(z.mean()) < 4 / np.sqrt(z.size) and abs(z.std() - 1) < 0.01


def test_shards_that_are_there_are_kept_and_the_others_are_made_by_any_process(
  prior, folder, tmp_path, monkeypatch
):
  written = {}
  for process in (1, 0):
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    prepare.run(settings(prior), tmp_path / 'new', count=COUNT, shards=SHARDS, batch_size=4)
    written[process] = sorted(path.name for path in (tmp_path / 'new').glob('*.arrayrecord'))
  monkeypatch.undo()
  assert written == {1: [shard(1, 3)], 0: [shard(i, 3) for i in range(3)]}
  one, two = source(folder), source(tmp_path / 'new')
  for index in range(COUNT):
    assert np.array_equal(one[index]['image_latents'], two[index]['image_latents'])
  # Examples whose shards are complete are not drawn again.
  kept = tmp_path / 'new' / shard(0, 3)
  before = kept.stat().st_mtime_ns
  (tmp_path / 'new' / shard(2, 3)).unlink()
  with pytest.raises(UserError, match=r'lacks 1 of 3 shards, examples-00002-of-00003'):
    source(tmp_path / 'new')
  prepare.run(settings(prior), tmp_path / 'new', count=COUNT, shards=SHARDS, batch_size=4)
  assert kept.stat().st_mtime_ns == before and len(source(tmp_path / 'new')) == COUNT


def test_examples_of_another_config_are_refused_with_what_differs(prior, folder, tmp_path):
  config = settings(prior)
  config.data.task.depth_kind = 'inverse'
  with pytest.raises(UserError, match="was prepared with task {.*'metric'.*, not {.*'inverse'"):
    prepare.run(config, folder, count=COUNT, shards=SHARDS, batch_size=4)
  with pytest.raises(UserError, match='was prepared with shards 3, not 2'):
    prepare.run(settings(prior), folder, count=COUNT, shards=2, batch_size=4)
  ahead = from_prepared(prior, folder)
  ahead.model.adapter = dict(name='controlnet', hint_widths=(4, 8))
  with pytest.raises(UserError, match="prepared with reads {'condition': 'latent'}"):
    loop.run(ahead, tmp_path / 'run')
  ahead = from_prepared(prior, folder)
  ahead.trainable = (('unet.*|adapter.*|vae.*', 'train'), ('.*', 'freeze'))
  with pytest.raises(UserError, match='trains vae.encoder[.].* cannot be encoded ahead'):
    loop.run(ahead, tmp_path / 'run')


def test_another_autoencoder_is_refused(prior, folder, tmp_path):
  manifest = json.loads((folder / 'manifest.json').read_text())
  assert len(manifest['encoders']) == 64
  other = tmp_path / 'other'
  other.mkdir()
  for path in folder.iterdir():
    (other / path.name).symlink_to(path)
  (other / 'manifest.json').unlink()
  (other / 'manifest.json').write_text(json.dumps(manifest | dict(encoders='0' * 64)))
  with pytest.raises(UserError, match="prepared with encoders '0000"):
    loop.run(from_prepared(prior, other), tmp_path / 'run')


@pytest.mark.parametrize(
  ('settings_', 'message'),
  [
    (dict(count=COUNT + 1, shards=1), 'Cannot prepare 11 of 10 examples'),
    (dict(count=2, shards=3), 'Cannot write 2 examples to 3 shards'),
  ],
)
def test_numbers_that_do_not_fit_are_one_line(settings_, message, prior, tmp_path):
  with pytest.raises(UserError, match=message):
    prepare.run(settings(prior), tmp_path, batch_size=4, **settings_)


def test_a_folder_without_examples_is_named(tmp_path):
  with pytest.raises(UserError, match='holds no prepared examples: there is no .*manifest.json'):
    source(tmp_path)
