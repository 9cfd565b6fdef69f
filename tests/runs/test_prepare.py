"""Examples encoded ahead: they train as those drawn on the way do, and are refused elsewhere."""

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import commands
import jax
import numpy as np
import pytest
import tiny
import torch_pipelines
from array_record.python import array_record_module
from PIL import Image
from safetensors.numpy import save

from cdd.core.errors import UserError
from cdd.core.registry import bind, make
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


def test_a_model_of_two_text_encoders_learns_alike_from_prepared_crops(tmp_path):
  made = torch_pipelines.parts(tmp_path, 'sdxl')
  pipeline = torch_pipelines.folder_of(made, tmp_path)
  config = tiny.load('super_resolution.py:tiny,method=finetune', pipeline)
  config.evaluation, config.data.caption_dropout = None, 0.5
  config.data.source.length = COUNT
  prepare.run(config, tmp_path / 'ahead', count=COUNT, shards=1, batch_size=4)
  examples = source(tmp_path / 'ahead')
  first = examples[0]
  assert {name: array.shape for name, array in first['text'].items()} == dict(
    states=(torch_pipelines.LENGTH, torch_pipelines.WIDTHS['sdxl']), pooled=(20,)
  )
  crops = make(SOURCES, config.data.source, 'source')
  assert len({tuple(examples[i]['sizes']) for i in range(COUNT)}) > 5
  np.testing.assert_array_equal(first['sizes'], crops[0]['sizes'])
  assert not any(array.any() for array in examples.no_prompt('').values())  # As diffusers has it.
  expected = losses(config, tmp_path / 'online')
  ahead = config.copy_and_resolve_references()
  ahead.data.source = dict(name='prepared', path=str(tmp_path / 'ahead'))
  found = losses(ahead, tmp_path / 'run')
  assert len(found) == 2 and np.isfinite(found).all() and expected[0] != expected[1]
  np.testing.assert_allclose(found, expected, rtol=5e-3)  # Half precision.


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
  ahead.trainable = (('unet.*|adapter.*|text_encoder.*', 'train'), ('.*', 'freeze'))
  with pytest.raises(UserError, match='trains text_encoder[.].* cannot be encoded ahead'):
    loop.run(ahead, tmp_path / 'run')


def test_what_is_refused_is_said_with_the_field_that_decides_it_and_the_command_to_prepare_again(
  prior, folder, tmp_path
):
  again = (
    f'python -m cdd.prepare --config=CONFIG --output=ANOTHER_FOLDER --count={COUNT} '
    f'--shards={SHARDS}.'
  )
  ahead = from_prepared(prior, folder)
  ahead.model.adapter = dict(name='controlnet', hint_widths=(4, 8))
  with pytest.raises(UserError) as error:
    loop.run(ahead, tmp_path / 'run')
  assert 'config.model.adapter decides what is read of an example' in str(error.value)
  assert str(error.value).endswith(again)
  fields = dict(json.loads((folder / 'manifest.json').read_text()), buckets=[1])
  for name in fields:
    with pytest.raises(UserError, match='was prepared with') as error:
      prepare.refuse_other(folder, fields, {name: 'other'})
    assert prepare.DECIDES[name] in str(error.value) and str(error.value).endswith(again)


def test_another_autoencoder_is_refused(prior, folder, tmp_path, monkeypatch):
  assert len(json.loads((folder / 'manifest.json').read_text())['encoders']) == 64
  monkeypatch.setattr(prepare, 'digest', lambda params: '0' * 64)
  with pytest.raises(UserError, match="prepared with encoders '.*', not '0000"):
    loop.run(from_prepared(prior, folder), tmp_path / 'run')


@pytest.fixture
def spoilt(folder, tmp_path):
  """A copy of the examples that a test may spoil."""
  return shutil.copytree(folder, tmp_path / 'spoilt')


@pytest.mark.parametrize(
  'fields',
  [[1], {}, 'text', dict(shards='3'), dict(shards=0), dict(count=None), dict(shards=3.0)],
)
def test_a_manifest_of_another_kind_is_one_line(fields, spoilt):
  path = spoilt / 'manifest.json'
  whole = json.loads(path.read_text())
  path.write_text(json.dumps(whole | fields if fields and isinstance(fields, dict) else fields))
  with pytest.raises(UserError, match='manifest.json is damaged: .* 1 <= shards <= count'):
    source(spoilt)


def test_a_manifest_of_countless_shards_takes_no_time(spoilt):
  path = spoilt / 'manifest.json'
  more = dict(count=10**12, shards=10**12)
  path.write_text(json.dumps(json.loads(path.read_text()) | more))
  with pytest.raises(UserError, match='lacks 1000000000000 of 1000000000000 shards'):
    source(spoilt)


@pytest.mark.parametrize('kept', [0, 10, 66000, 131062])
def test_a_shard_that_is_cut_off_is_named_and_can_be_made_again(kept, folder, spoilt, prior):
  path = spoilt / shard(1, SHARDS)
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(UserError, match='A shard in .*spoilt cannot be read: .*Delete those'):
    source(spoilt)
  if kept == 10:
    path.unlink()
    prepare.run(settings(prior), spoilt, count=COUNT, shards=SHARDS, batch_size=4)
    assert path.read_bytes() == (folder / path.name).read_bytes()


def test_a_shard_with_a_wrong_bit_is_named(spoilt):
  path = spoilt / shard(1, SHARDS)
  data = bytearray(path.read_bytes())
  data[100] ^= 1
  path.write_bytes(data)
  with pytest.raises(UserError, match='Example 3 of .* cannot be read: .*hash mismatch.*00001-of'):
    source(spoilt)


def test_records_of_another_kind_are_one_line(spoilt):
  path = spoilt / shard(1, SHARDS)
  for data in (b'x', save(dict(a=np.zeros(3)))):
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for _ in range(3):
      writer.write(data)
    writer.close()
    with pytest.raises(UserError, match='Example 3 of .* cannot be read: .*Delete examples-00001'):
      source(spoilt)


def test_shards_of_other_examples_are_refused(prior, folder, spoilt, tmp_path):
  config = settings(prior)
  config.seed = 5
  prepare.run(config, tmp_path / 'other', count=COUNT, shards=SHARDS, batch_size=4)
  said = 'was not prepared with the manifest.json beside it'
  shutil.copy(tmp_path / 'other' / shard(2, SHARDS), spoilt)
  with pytest.raises(UserError, match=f'00002-of-00003.arrayrecord {said}'):
    source(spoilt)
  shutil.copy(folder / shard(1, SHARDS), spoilt / shard(0, SHARDS))  # As many bytes, another name.
  with pytest.raises(UserError, match=f'00000-of-00003.arrayrecord {said}'):
    source(spoilt)
  path = spoilt / 'manifest.json'
  path.unlink()
  with pytest.raises(UserError, match='holds examples-00000.*, but no manifest.json that says'):
    prepare.run(config, spoilt, count=COUNT, shards=SHARDS, batch_size=4)


@pytest.mark.parametrize('kept', [None, 0, 50])
def test_a_damaged_empty_prompt_is_found_before_training_and_made_again(kept, spoilt, prior):
  path = spoilt / 'empty.safetensors'
  whole = path.read_bytes()
  path.unlink() if kept is None else path.write_bytes(whole[:kept])
  with pytest.raises(UserError, match='empty.safetensors cannot be read: .*Give the command that'):
    source(spoilt)
  if kept == 50:
    prepare.run(settings(prior), spoilt, count=COUNT, shards=SHARDS, batch_size=4)
    assert path.read_bytes() == whole and len(source(spoilt)) == COUNT


def test_two_commands_at_once_write_what_one_does(prior, folder, tmp_path):
  def run(number):
    prepare.run(settings(prior), tmp_path / 'new', count=COUNT, shards=SHARDS, batch_size=4)

  with ThreadPoolExecutor(2) as pool:
    list(pool.map(run, range(2)))
  for path in folder.iterdir():
    assert (tmp_path / 'new' / path.name).read_bytes() == path.read_bytes()


def test_prepared_examples_are_not_held_out_mixed_or_prepared_again(prior, folder, tmp_path):
  spec = dict(name='prepared', path=str(folder))
  config = settings(prior)
  config.data.held_out = spec
  with pytest.raises(UserError, match='held_out is prepared.*holds no pictures'):
    loop.run(config, tmp_path / 'run')
  config = settings(prior)
  config.data.source = dict(name='mixture', sources=(spec, dict(name='scenes', size=tiny.SIZE)))
  with pytest.raises(UserError, match='Prepared examples cannot be mixed'):
    loop.run(config, tmp_path / 'run')
  with pytest.raises(UserError, match='Prepared examples cannot be prepared again'):
    prepare.run(from_prepared(prior, folder), tmp_path, count=1, shards=1, batch_size=4)


def test_a_config_is_checked_before_it_is_prepared(prior, tmp_path):
  config = settings(prior)
  config.data.threads = 0
  with pytest.raises(UserError, match='config.data.threads is 0; it must be a whole number'):
    prepare.run(config, tmp_path / 'new', count=COUNT, shards=SHARDS, batch_size=4)
  assert not (tmp_path / 'new').exists()


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


def test_the_command_says_how_many_examples_it_skipped_and_where_they_are_listed(prior, tmp_path):
  (tmp_path / 'photos').mkdir()
  for number in range(6):
    noise = Image.effect_noise((48, 40), 80).convert('RGB')
    noise.save(tmp_path / 'photos' / f'{number}.jpg')
    (tmp_path / 'photos' / f'{number}.txt').write_text('noise')
  options = ['--count=4', '--shards=1', '--batch_size=4', f'--config.prior.path={prior}']
  options.append(f'--config.data.source.size={tiny.SIZE}')
  config = ['cdd.prepare', '--config=super_resolution:tiny,data=photos', *options]
  (whole,) = commands.run([[*config, '--output=whole']], cwd=tmp_path)
  assert whole.code == 0, whole.err[-2000:]
  assert 'Wrote 4 examples to whole. Skipped no example as damaged.\n' in whole.out
  (tmp_path / 'photos' / '3.jpg').write_bytes(b'no image')
  (torn,) = commands.run([[*config, '--output=torn']], cwd=tmp_path)
  said = 'Wrote 4 examples to torn. Skipped 1 damaged example, listed in torn/skipped.jsonl.\n'
  assert torn.code == 0 and said in torn.out, (torn.out, torn.err[-2000:])
  assert '3.jpg' in (tmp_path / 'torn' / 'skipped.jsonl').read_text()


def test_a_folder_without_examples_is_named(tmp_path):
  with pytest.raises(UserError, match='holds no prepared examples: there is no .*manifest.json'):
    source(tmp_path)
  (tmp_path / 'depth_ahead').mkdir()
  with pytest.raises(
    UserError, match="there is no '.*/dept_ahead'; .* holds 'depth_ahead'[.] Make"
  ):
    source(tmp_path / 'dept_ahead')
