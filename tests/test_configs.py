"""Every config and option trains two steps with a tiny prior, or says in a line what it lacks."""

import json
import re

import commands
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from cdd import sampling
from cdd.core.errors import UserError
from cdd.pretrained import convert, hub
from cdd.runs import examined, loop
from cdd.runs.experiment import experiment
from configs import common, depth, instruct_edit, super_resolution

SIZES = ('tiny', 'small,method=finetune')
RUNS = [
  f'{task}.py:{option}'
  for task in ('depth', 'super_resolution')
  for option in ('tiny', 'small', 'tiny,method=paper', 'small,method=finetune')
]
RUNS += [
  f'{task}.py:{option}' for task in ('canny', 'inpaint', 'instruct_edit') for option in SIZES
]
MASKS = [f'inpaint.py:tiny,adapter={name}' for name in ('controlnet', 't2i_adapter', 'concat')]
ADAPTERS = ('controlnet', 't2i_adapter', 'concat')


def trained(config, folder):
  """The log of a run of two steps without its evaluation (tests/test_end_to_end.py has that)."""
  config.evaluation = None
  loop.run(config, folder)
  rows = [json.loads(row) for row in (folder / 'log.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows] == [1, 2]
  assert all(np.isfinite(row['loss']) for row in rows)
  return rows


@pytest.mark.parametrize('name', RUNS)
def test_every_small_config_trains(name, prior, tmp_path):
  rows = trained(tiny.load(name, prior), tmp_path / 'run')
  assert ('consistency' in rows[0]) == ('finetune' not in name)
  assert (tmp_path / 'run/export/trained.safetensors').exists()


def test_priors_have_the_form_of_ids_on_the_hub():
  assert all(map(hub.is_id, common.HUB.values()))


@pytest.mark.parametrize('adapter', ADAPTERS)
def test_every_adapter_trains_alone_from_the_command_line(adapter, prior, tmp_path):
  config = tiny.load(f'depth.py:tiny,adapter={adapter},train=adapter', prior)
  if adapter != 'concat':  # The tiny prior halves its pixels once.
    field, value = dict(controlnet=('hint_widths', (4, 8)), t2i_adapter=('downscale_factor', 4))[
      adapter
    ]
    with pytest.raises(UserError, match='adds features of .* where the U-Net has .*hint_widths'):
      loop.run(config, tmp_path / 'wrong')
    config.model.adapter[field] = value
  trained(config, tmp_path / 'run')
  exported = load_file(tmp_path / 'run/export/trained.safetensors')
  own = 'unet.conv_in.' if adapter == 'concat' else 'adapter.'
  assert exported and all(name.startswith(own) for name in exported)


@pytest.mark.parametrize(
  ('option', 'sampler'),
  [
    ('tiny,method=finetune', 'ddim'),
    ('tiny', 'consistency'),
    ('full,method=step_aware', 'consistency'),
  ],
)
def test_without_an_adapter_text_to_image_is_trained(option, sampler, prior, tmp_path):
  config = tiny.load(f'depth.py:{option},adapter=none', prior)
  config.data.source = config.data.held_out = dict(name='scenes', size=tiny.SIZE)
  config.mesh.fsdp = 1
  assert config.data.task.to_dict() == dict(name='text_to_image')
  if sampler == 'ddim':
    loop.run(config, tmp_path / 'run')
    (row, *_) = json.loads((tmp_path / 'run/metrics.json').read_text())
    assert row['method'] == 'finetune' and np.isfinite(row['frechet']) and 'depth' not in row
  else:
    trained(config, tmp_path / 'run')
  pipeline = sampling.load(tmp_path / 'run')
  assert (pipeline.sampler, pipeline.networks.reads) == (sampler, {})
  kind = convert.convert(str(tmp_path / 'run'), tmp_path / 'x')
  assert kind.startswith('StableDiffusionPipeline')


def test_what_needs_a_condition_names_the_adapters_that_read_one(tmp_path):
  choices = re.escape(f'choose one of {sorted([*ADAPTERS, "mu_mix"])}')
  with pytest.raises(ValueError, match=f'train=adapter needs an adapter.*{choices}'):
    depth.get_config('tiny,adapter=none,train=adapter')
  with pytest.raises(ValueError, match=f'what to change in a picture.*{choices}'):
    instruct_edit.get_config('full,adapter=none')


def test_a_run_without_an_adapter_is_evaluated_on_ones_own_files(tmp_path):
  config = examined.on_own_files(depth.get_config('tiny,adapter=none'), str(tmp_path))
  assert config.data.task.to_dict() == dict(name='text_to_image')
  assert config.data.held_out.path == str(tmp_path)


@pytest.mark.parametrize('name', MASKS)
def test_every_adapter_reads_a_mask(name, prior, tmp_path):
  config = tiny.load(name, prior)
  if 'controlnet' in name:
    config.model.adapter.hint_widths = (4, 8)
  if 't2i' in name:
    config.model.adapter.downscale_factor = 4
  assert 'mask' in experiment(config, tmp_path / 'x').networks.reads
  trained(config, tmp_path / 'run')


@pytest.mark.parametrize(
  ('argument', 'name'),
  [
    ('tiny', 'depth_tiny'),
    ('small,method=finetune', 'depth_small_finetune'),
    ('tiny,data=with spaces/my photos/', 'depth_tiny_my_photos'),
  ],
)
def test_a_run_is_named_after_what_was_chosen(argument, name):
  assert depth.get_config(argument).name == name


def test_own_data_is_a_folder_with_two_parts_or_one_of_which_a_part_is_held_out(tmp_path):
  config = depth.get_config(f'tiny,data={tmp_path}').data
  whole = dict(name='image_folder', path=str(tmp_path), size=64, flip=True, caption_column=None)
  whole |= dict(background='white', max_skipped=0.1)
  assert config.source.to_dict() == dict(whole, part='train')
  assert config.held_out.to_dict() == dict(whole, part='test')
  assert config.task.depth_kind == 'inverse'
  (tmp_path / 'train').mkdir()
  (tmp_path / 'test').mkdir()
  config = depth.get_config(f'tiny,data={tmp_path},prepared=there').data
  made_of = str(tmp_path / 'train')
  assert config.source.to_dict() == dict(name='prepared', path='there', made_of=made_of)
  assert config.held_out.to_dict() == dict(whole, path=str(tmp_path / 'test'))


@pytest.mark.parametrize('argument', ['tiny', 'full', 'tiny,data=photos', 'full,data=photos'])
@pytest.mark.parametrize('task', [depth, instruct_edit, super_resolution])
def test_held_out_examples_follow_what_the_source_is_given_unless_they_are_given_their_own(
  task, argument
):
  data = task.get_config(argument).data
  data.source.size = 40
  assert data.held_out.size == 40 and json.loads(data.to_json())['held_out']['size'] == 40
  data.held_out.size = 48
  data.source.size = 24
  assert (data.source.size, data.held_out.size) == (24, 48)
  if 'caption_column' in data.source:
    data.source.update(dict(caption_column='blip', background='black', flip=False))
    own = ('caption_column', 'background', 'flip')
    assert [data.held_out[name] for name in own] == ['blip', 'black', False]
  apart = ('path', 'part', 'split', 'start')
  assert any(data.source.get(name) != data.held_out.get(name) for name in apart)


def test_one_flag_sets_the_size_of_a_run_and_of_its_held_out_examples(tmp_path):
  line = ['cdd.main', '--config=depth:tiny', '--config.data.source.size=32', '--print_config']
  (done,) = commands.run([line], cwd=tmp_path)
  data = json.loads(done.out)['data']
  assert data['source']['size'] == data['held_out']['size'] == 32


@pytest.mark.parametrize(
  ('path', 'name'),
  [
    ('a=b/c=d', 'depth_tiny_c_d'),
    ('my pictures/of rooms/', 'depth_tiny_of_rooms'),
    ('bildér/猫', 'depth_tiny_猫'),
    ('gs://bucket/x', 'depth_tiny_x'),
    ('C:x', 'depth_tiny_C_x'),
  ],
)
def test_a_folder_of_any_name_is_read(path, name):
  config = depth.get_config(f'tiny,data={path},method=conditional')
  assert (config.data.source.path, config.name) == (path, name)
  assert depth.get_config(f'tiny,prepared={path}').data.source.path == path


@pytest.mark.parametrize(
  ('suffix', 'name'),
  [('.parquet', 'parquet'), ('.tar', 'webdataset'), ('.array_record', 'array_record')],
)
def test_files_of_records_are_told_by_their_suffix(suffix, name, tmp_path):
  for part in ('train', 'test'):
    (tmp_path / 'flat').mkdir(exist_ok=True)
    (tmp_path / 'flat' / f'{part}-00000{suffix}').touch()
    (tmp_path / 'deep' / part).mkdir(parents=True)
    (tmp_path / 'deep' / part / f'0{suffix}').touch()
  flat = depth.get_config(f'tiny,data={tmp_path}/flat').data
  assert flat.source.name == flat.held_out.name == name
  assert flat.source.path == f'{tmp_path}/flat/train*{suffix}'
  deep = depth.get_config(f'full,data={tmp_path}/deep').data
  assert (deep.held_out.name, deep.held_out.path) == (name, f'{tmp_path}/deep/test')
  (tmp_path / 'flat' / f'test-00000{suffix}').unlink()
  with pytest.raises(ValueError, match=f'holds {name} files and none called test'):
    depth.get_config(f'tiny,data={tmp_path}/flat')


def test_the_autoencoder_and_then_the_prior_are_pretrained(prior, tmp_path):
  first = tiny.load('pretrain.py:autoencoder', prior)
  first.prior.new.vae.update(tiny.VAE)
  trained(first, tmp_path / 'vae')
  second = tiny.load('pretrain.py:prior', tmp_path / 'vae/export')
  second.prior.new.unet.update(tiny.UNET)
  second.prior.new.text_encoder.update({k: v for k, v in tiny.TEXT.items() if k != 'vocab_size'})
  second.prior.new.tokenizer.update(dict(vocab_size=600, length=12))
  rows = trained(second, tmp_path / 'prior')
  assert 'l1' not in rows[0]
  # What it wrote is a prior like any other: more stages go on from it, and a task may start there.
  before = load_file(tmp_path / 'prior/export/vae/diffusion_pytorch_model.safetensors')
  third = tiny.load('pretrain.py:autoencoder_longer', tmp_path / 'prior/export')
  third.optimizer.warmup = 0  # So that two updates show in float16.
  trained(third, tmp_path / 'vae_longer')
  fourth = tiny.load('pretrain.py:prior_longer', tmp_path / 'vae_longer/export')
  trained(fourth, tmp_path / 'prior_longer')
  after = load_file(tmp_path / 'prior_longer/export/vae/diffusion_pytorch_model.safetensors')
  assert all(np.any(before[key] != after[key]) for key in before if key.endswith('conv_in.weight'))
  fifth = tiny.load('pretrain.py:prior_longest', tmp_path / 'prior_longer/export')
  fifth.optimizer.warmup = 0
  trained(fifth, tmp_path / 'prior_longest')
  for part, moves in (('unet/diffusion_pytorch_model', True), ('text_encoder/model', False)):
    old, new = (
      load_file(tmp_path / stage / f'export/{part}.safetensors')
      for stage in ('prior_longer', 'prior_longest')
    )
    assert moves == any(np.any(old[key] != new[key]) for key in old)
  last = tiny.load('super_resolution.py:tiny', tmp_path / 'prior_longest/export')
  assert experiment(last, tmp_path / 'last').networks.channels == 4


@pytest.mark.parametrize('task', ['depth', 'super_resolution'])
def test_a_full_size_config_names_the_folder_that_is_missing(task, prior, tmp_path):
  config = tiny.load(f'{task}.py', prior)
  config.mesh.fsdp = 1
  small = tiny.load(f'{task}.py:tiny', prior).data
  config.data.task = small.task
  with pytest.raises(UserError, match=f'no image folder .data/{task}/train'):
    experiment(config, tmp_path)
  config.data.source = small.source
  config.prior.path = common.HUB['sd21']
  with pytest.raises(UserError, match='no pretrained model at .sd2-community/.*config.prior.path'):
    experiment(config, tmp_path)


@pytest.mark.parametrize(
  ('field', 'message'),
  [
    ('data.task.name', r"Unknown task 'x'; choose one of \['canny'"),
    ('data.source.name', r"Unknown source 'x'; choose one of \['array_record'"),
    (
      'model.adapter.name',
      r"Unknown adapter 'x'; choose one of \['concat', 'controlnet', 'mu_mix', 'none'",
    ),
    ('method.name', r"Unknown method 'x'; choose one of \['autoencoder'"),
    ('method.predictor.name', r"Unknown predictor 'x'; choose one of \['ddim'"),
    (
      'method.sample_t.name',
      r"Unknown sample_t 'x'; choose one of \['grid', 'logit_normal', 'per_example', 'shared'\]",
    ),
    ('optimizer.name', r"Unknown optimizer 'x'; choose one of \['adamw'"),
    ('optimizer.decay', r"Unknown learning-rate decay 'x'; choose one of \['constant'"),
    ('target.name', r"Unknown target 'x'; choose one of \['ema'"),
    ('evaluation.sampler', r"Unknown sampler 'x'; choose one of \["),
  ],
)
def test_an_unknown_name_is_an_error_with_the_choices_before_any_training(
  field, message, prior, tmp_path
):
  config = tiny.load('depth.py:tiny', prior)
  config.update_from_flattened_dict({field: 'x'})
  with pytest.raises(UserError, match=message):
    loop.run(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()  # A mended config may have the same workdir.


def test_a_parameter_that_no_pattern_covers_is_named(prior, tmp_path):
  config = tiny.load('depth.py:tiny', prior)
  config.trainable = (('unet[.].*', 'train'), ('vae[.].*', 'freeze'))
  with pytest.raises(UserError, match='No pattern of .* matches .*text_encoder'):
    experiment(config, tmp_path)


def test_a_misspelt_label_is_named(prior, tmp_path):
  config = tiny.load('depth.py:tiny', prior)
  config.trainable = (('.*', 'trian'),)
  with pytest.raises(UserError, match="'trian'; choose one of .*'freeze', 'train'"):
    experiment(config, tmp_path)
