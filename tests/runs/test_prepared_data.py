"""Examples encoded ahead know what they were made of; other data than a run has is refused."""

import json

import commands
import pytest
import tiny
from PIL import Image

from cdd.core.errors import UserError
from cdd.data import SOURCES
from cdd.runs import prepare
from configs import super_resolution


@pytest.fixture(scope='module')
def of_photos(prior, tmp_path_factory):
  """A folder with two folders of pictures and what was prepared of the first."""
  place = tmp_path_factory.mktemp('own')
  for name in ('mine', 'yours'):
    for part, count in (('train', 3), ('test', 2)):
      (place / name / part).mkdir(parents=True)
      for number in range(count):
        noise = Image.effect_noise((48, 40), 80).convert('RGB')
        noise.save(place / name / part / f'{number}.png')
  prepare.run(of_data(prior, place / 'mine'), place / 'ahead', count=2, shards=1, batch_size=2)
  return place


def of_data(prior, data, *options):
  config = super_resolution.get_config(','.join(['tiny', f'data={data}', *options]))
  config.prior.path = str(prior)
  config.data.source.size = tiny.SIZE
  return config


def checked(prior, data, place):
  """The check of a run on data= and prepared=."""
  config = of_data(prior, data, f'prepared={place / "ahead"}')
  made = SOURCES['prepared'](path=config.data.source.path)
  prepare.refuse_other_data(place / 'ahead', made.manifest, config.data.source.made_of)
  return config, made


def test_prepared_examples_of_other_data_than_the_run_is_given_are_refused(prior, of_photos):
  with pytest.raises(UserError) as error:
    checked(prior, of_photos / 'yours', of_photos)
  said, old = str(error.value), of_photos / 'mine' / 'train'
  assert f'ahead was prepared of {old}, and the run is given' in said and '\n' not in said
  assert said.endswith(
    f'If that is where {old} was moved to, add --config.data.source.made_of={old}.'
  )
  config, made = of_data(prior, of_photos / 'yours', f'prepared={of_photos}/ahead'), None
  config.data.source.made_of = str(old)  # As that flag does.
  made = SOURCES['prepared'](path=config.data.source.path)
  prepare.refuse_other_data(of_photos / 'ahead', made.manifest, config.data.source.made_of)


@pytest.mark.parametrize(
  'data', ['mine', 'mine/', './mine', '../{name}/mine', 'link', '{place}/mine']
)
def test_the_same_data_is_the_same_by_any_path(data, prior, of_photos, monkeypatch):
  monkeypatch.chdir(of_photos)
  if not (of_photos / 'link').exists():
    (of_photos / 'link').symlink_to('mine')
  checked(prior, data.format(place=of_photos, name=of_photos.name), of_photos)


def test_prepared_examples_are_used_without_data_and_of_sources_without_a_place(of_photos):
  config = super_resolution.get_config(f'tiny,prepared={of_photos}/ahead')
  assert config.data.source.made_of is None
  manifest = json.loads((of_photos / 'ahead/manifest.json').read_text())
  prepare.refuse_other_data(of_photos / 'ahead', manifest, None)
  manifest['source'] = dict(name='scenes', size=8)
  with pytest.raises(UserError, match="prepared of {'name': 'scenes', 'size': 8}, and the run is"):
    prepare.refuse_other_data(of_photos / 'ahead', manifest, 'photos')


def test_a_run_compares_its_data_and_goes_on_where_that_was_moved(prior, of_photos, tmp_path):
  line = ['cdd.main', f'--config=super_resolution:tiny,data={of_photos}/yours,prepared=ahead']
  line += [f'--config.prior.path={prior}', f'--config.data.held_out.size={tiny.SIZE}']
  line += ['--config.steps=1', '--config.data.batch_size=2', '--config.evaluation.count=2']
  line += ['--config.evaluation.batch_size=2', '--config.evaluation.steps=(1,)']
  line += ['--config.log.samples_every=0', f'--workdir={tmp_path}']
  moved = f'--config.data.source.made_of={of_photos}/mine/train'
  refused, done = commands.run([line, [*line, moved]], cwd=of_photos)
  assert refused.code == 1 and refused.err.count('\n') == 1 and moved in refused.err
  assert done.code == 0, done.err[-2000:]
