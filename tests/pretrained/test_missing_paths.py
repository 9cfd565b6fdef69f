"""A path at which there is nothing is named with what is called alike, and no hub is asked."""

import pytest
import tiny

from cdd import sampling
from cdd.core import places
from cdd.core.errors import UserError
from cdd.pretrained import hub, priors
from cdd.pretrained.convert import convert
from cdd.pretrained.trained import load as trained
from cdd.runs import loop


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  """A working folder with two runs, in which to ask the hub is an error."""
  for name in ('depth_tiny', 'canny_tiny', '.hidden'):
    (tmp_path / 'runs' / name).mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setattr(hub, 'download', lambda *_, **__: pytest.fail('the hub was asked'))
  return tmp_path


@pytest.mark.parametrize(
  'path', ['runs/dept_tiny', './runs/dept_tiny', '../x', '/x/y', '~/dept_tiny', './x', 'runs/a/b']
)
def test_a_path_is_told_from_a_name_of_a_hub(path):
  assert places.is_local(path)


@pytest.mark.parametrize('name', ['owner/name', 'stabilityai/sdxl-turbo', 'runs', 'packaged'])
def test_a_name_of_a_hub_is_told_from_a_path(name):
  assert not places.is_local(name)


@pytest.mark.parametrize(
  ('path', 'said'),
  [
    ('runs/dept_tiny', "there is no 'runs/dept_tiny'; runs holds 'depth_tiny'"),
    ('runs/xyz', "there is no 'runs/xyz'; runs holds 'canny_tiny', 'depth_tiny'"),
    ('rnus/depth_tiny', "there is no 'rnus'; the working folder holds 'runs'"),
    ('~/runs/depth_tiny/export', "there is no '{home}/runs/depth_tiny/export'"),
    ('elsewhere', "there is no 'elsewhere'"),
    ('file/run', 'file is no folder'),
  ],
)
def test_the_first_part_of_a_path_that_is_missing_is_said_with_its_like(path, said, here):
  (here / 'file').write_text('')
  assert places.missing(path) == said.format(home=here)


def test_every_place_that_takes_a_model_says_so_without_asking_a_hub(prior, tmp_path):
  config = tiny.load('depth.py:tiny', prior)
  wanted = dict(
    model=lambda path: sampling.load(path),
    step=lambda path: sampling.load(path, step=3),
    adapter=lambda path: sampling.load(prior, adapter=path),
    vae=lambda path: sampling.load(prior, vae=path),
    source=lambda path: convert(path, tmp_path / 'out'),
    step_of_source=lambda path: convert(path, tmp_path / 'out', step=3),
    single=lambda path: convert(path, tmp_path / 'out', adapter='controlnet', prior=str(prior)),
    prior_of_single=lambda path: convert(
      str(prior), tmp_path / 'out', adapter='controlnet', prior=path
    ),
    initial=lambda path: trained(path, {}),
    prior=lambda path: priors.folder_of(path),
    run=lambda path: loop.run(with_adapter(config, path), tmp_path / 'run'),
  )
  for name, use in wanted.items():
    with pytest.raises(UserError) as error:
      use('runs/dept_tiny')
    said = str(error.value)
    assert said.startswith('There is no ') and "; runs holds 'depth_tiny'." in said, (name, said)
    assert '\n' not in said


def with_adapter(config, path):
  config.model.adapter = dict(name='controlnet', path=path)
  return config


def test_a_model_in_the_home_folder_is_read(prior, here):
  (here / 'mine').symlink_to(prior)
  assert priors.folder_of('~/mine') == here / 'mine'
