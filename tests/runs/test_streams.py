"""The data of a run."""

import logging
from types import SimpleNamespace

import numpy as np
from PIL import Image

from cdd.core.registry import make
from cdd.data import SOURCES, images, transforms
from cdd.runs import streams


def test_the_headers_of_held_out_images_are_read_and_warned_of_once_per_run(
  tmp_path, monkeypatch, caplog
):
  for index in range(5):
    Image.effect_noise((20, 20), 80).convert('RGB').save(tmp_path / f'{index}.png')
    (tmp_path / f'{index}.txt').write_text('noise')
  (tmp_path / 'broken.png').write_text('no image')
  opened, size = [], images.size
  monkeypatch.setattr(images, 'size', lambda path: opened.append(path.name) or size(path))
  source = dict(name='image_folder', path=str(tmp_path), size=8)
  data = SimpleNamespace(task=dict(name='text_to_image'), held_out=source)
  with caplog.at_level(logging.WARNING):
    held_out = streams.held_out(SimpleNamespace(data=data, evaluation=None), lambda text: {})
    previews = [held_out(4, 2) for _ in range(3)]
  assert sorted(opened) == ['0.png', '1.png', '2.png', '3.png', '4.png', 'broken.png']
  assert sum('broken.png' in record.getMessage() for record in caplog.records) == 1
  for again in previews[1:]:
    np.testing.assert_array_equal(again[1]['image'], previews[0][1]['image'])


def test_how_few_pictures_the_held_out_examples_are_of_is_said_before_the_training(
  tmp_path, capsys
):
  for index in range(12):
    Image.effect_noise((20, 20), 80).convert('RGB').save(tmp_path / f'{index}.png')
  source = dict(name='image_folder', path=str(tmp_path), size=8, part='test')
  evaluation = SimpleNamespace(count=128, batch_size=32)
  data = SimpleNamespace(task=dict(name='text_to_image'), held_out=source)
  held_out = streams.held_out(SimpleNamespace(data=data, evaluation=evaluation), None)
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith('The 128 held-out examples are crops of no more than 1 picture. Their ')
  assert held_out.pictures(128) == 1
  data.held_out = dict(source, part=None)
  held_out = streams.held_out(SimpleNamespace(data=data, evaluation=evaluation), None)
  assert 'no more than 12 pictures' in capsys.readouterr().out
  drawn = [held_out.source[index]['image'].tobytes() for index in range(128)]
  assert held_out.pictures(128) == 12 and len({*drawn}) > 12
  data.held_out = dict(name='scenes', size=8)
  streams.held_out(SimpleNamespace(data=data, evaluation=evaluation), None)
  assert not capsys.readouterr().out


def test_pictures_are_counted_as_they_are_drawn(tmp_path):
  for index in range(12):
    colour = (20 * index, 0, 0)
    Image.new('RGB', (8, 8), colour).save(tmp_path / f'{index:02}.png')
  spec = dict(name='image_folder', path=str(tmp_path), size=8)
  folder = make(SOURCES, spec, 'source')
  for count in (1, 5, 40):
    colours = {tuple(folder[index]['image'][0, 0]) for index in range(count)}
    assert transforms.pictures(folder, count) == len(colours)
  scenes = dict(name='scenes', size=8)
  mixture = make(SOURCES, dict(name='mixture', sources=(spec, scenes), weights=(1, 3)), 'source')
  taken = [folder[index]['image'][0, 0] for index in range(10)]
  assert transforms.pictures(mixture, 40) == 30 + len({tuple(each) for each in taken})


def test_damaged_examples_are_listed_and_counted_in_the_workdir(tmp_path):
  for index in range(3):
    Image.effect_noise((20, 20), 80).convert('RGB').save(tmp_path / f'{index}.png')
  (tmp_path / 'broken.png').write_text('no image')
  source = dict(name='image_folder', path=str(tmp_path), size=8)
  data = SimpleNamespace(task=dict(name='text_to_image'), source=source, held_out=source)
  workdir = tmp_path / 'run'
  assert streams.said_of_skipped(workdir) == ''
  for _ in range(2):  # A run and its resumption.
    streams.training(SimpleNamespace(data=data, evaluation=None), workdir)
    streams.held_out(SimpleNamespace(data=data, evaluation=None), lambda text: {}, workdir)
  (line,) = (workdir / 'skipped.jsonl').read_text().splitlines()
  assert '"broken.png"' in line and 'no image' in line
  said = f'Skipped 1 damaged example, listed in {workdir / "skipped.jsonl"}.'
  assert streams.said_of_skipped(workdir) == said
