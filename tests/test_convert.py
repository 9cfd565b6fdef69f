"""python -m cdd.convert: from folders, the hub's cache and runs to what PyTorch loads strictly."""

import json
import shutil
from pathlib import Path

import commands
import diffusers as reference
import numpy as np
import pytest
import tiny
import torch
import transformers
from safetensors.numpy import load_file

from cdd import convert as command
from cdd.core.errors import UserError
from cdd.pretrained import diffusers, hub, names, priors, tensors, trained, weights
from cdd.pretrained.convert import convert
from cdd.runs.program import divide

FILE = 'diffusion_pytorch_model.safetensors'
ID = 'someone/tiny-sd'


def strict(kind, folder):
  """The reference's model, with every tensor of the file in it and no other."""
  model, info = kind.from_pretrained(folder, output_loading_info=True)
  assert not any(info[name] for name in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
  return model


def expect(model, params, prefix='', dtype=np.float32):
  """Every tensor of a model is the parameter that it came from, rounded to `dtype`."""
  start = prefix and f'{prefix}.'
  tree = {key[len(start) :]: leaf for key, leaf in params.items() if key.startswith(start)}
  expected = names.to_tensors(tree)
  assert expected.keys() == model.state_dict().keys()
  for key, tensor in model.state_dict().items():
    ours = np.asarray(expected[key]).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(tensor.float().numpy(), ours)


@pytest.mark.parametrize('dtype', [None, 'float16', 'bfloat16', 'float32'])
def test_a_folder_becomes_one_that_the_reference_loads(dtype, prior, tmp_path):
  kind = dtype and tensors.DTYPES[command.DTYPES[dtype]]
  what = convert(str(prior), tmp_path / 'out', dtype=kind, max_shard_size=20_000)
  assert what == 'StableDiffusionPipeline (unet, vae, text_encoder)'
  assert len(list((tmp_path / 'out' / 'unet').glob('*.safetensors'))) > 2
  stored = weights.read(tmp_path / 'out' / 'unet', 'diffusion_pytorch_model')
  assert {leaf.dtype.name for leaf in stored.values()} == {dtype or 'float16'}
  pipeline = reference.StableDiffusionPipeline.from_pretrained(tmp_path / 'out')
  params = diffusers.load(prior).params
  expect(strict(reference.UNet2DConditionModel, tmp_path / 'out' / 'unet'), params, 'unet', kind)
  expect(pipeline.vae, params, 'vae', kind)
  assert pipeline.scheduler.config.prediction_type == 'v_prediction'
  assert pipeline.tokenizer('a red ball').input_ids[0] == pipeline.tokenizer.bos_token_id


@pytest.mark.parametrize('dtype', [None, 'float32'])
def test_the_config_names_no_other_dtype_than_that_of_the_weights(dtype, prior, tmp_path):
  """transformers loads a text encoder in the dtype that its config names."""
  folder = shutil.copytree(prior, tmp_path / 'prior')
  about = folder / 'text_encoder' / 'config.json'
  about.write_text(json.dumps(json.loads(about.read_text()) | dict(dtype='bfloat16')))
  convert(str(folder), tmp_path / 'out', dtype=dtype and tensors.DTYPES[command.DTYPES[dtype]])
  loaded = transformers.CLIPTextModel.from_pretrained(tmp_path / 'out' / 'text_encoder')
  assert str(loaded.dtype) == f'torch.{dtype or "float16"}'


XL = dict(
  sample_size=8,
  block_out_channels=(8, 16),
  down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
  up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
  layers_per_block=1,
  cross_attention_dim=16,
  attention_head_dim=(2, 4),
  transformer_layers_per_block=(1, 2),
  norm_num_groups=4,
  use_linear_projection=True,
  addition_embed_type='text_time',
  addition_time_embed_dim=4,
  projection_class_embeddings_input_dim=24 + 10,
)


def sdxl(prior, folder):
  """A folder of SDXL's layout, written by the reference; its second encoder is 10 wide."""
  text = dict(vocab_size=600, hidden_size=8, intermediate_size=16, num_hidden_layers=1)
  text |= dict(num_attention_heads=2, max_position_embeddings=12, projection_dim=10)
  text = transformers.CLIPTextConfig(**text, bos_token_id=598, eos_token_id=599)
  tokenizer = transformers.CLIPTokenizer.from_pretrained(prior / 'tokenizer')
  reference.StableDiffusionXLPipeline(
    vae=reference.AutoencoderKL.from_pretrained(prior / 'vae'),
    text_encoder=transformers.CLIPTextModel(text),
    text_encoder_2=transformers.CLIPTextModelWithProjection(text),
    tokenizer=tokenizer,
    tokenizer_2=tokenizer,
    unet=reference.UNet2DConditionModel(**XL),
    scheduler=reference.EulerDiscreteScheduler(beta_schedule='scaled_linear'),
    force_zeros_for_empty_prompt=False,
  ).save_pretrained(folder)
  return folder


def test_sdxl_comes_back_with_both_encoders_and_its_flags(prior, tmp_path):
  folder = sdxl(prior, tmp_path / 'xl')
  what = convert(str(folder), tmp_path / 'out')
  assert what == 'StableDiffusionXLPipeline (unet, vae, text_encoder, text_encoder_2)'
  ours = reference.DiffusionPipeline.from_pretrained(tmp_path / 'out')
  theirs = reference.DiffusionPipeline.from_pretrained(folder)
  assert type(ours) is type(theirs) is reference.StableDiffusionXLPipeline
  assert ours.config.force_zeros_for_empty_prompt is False
  assert type(ours.scheduler) is reference.EulerDiscreteScheduler
  assert ours.scheduler.config == theirs.scheduler.config
  for component in ('unet', 'vae', 'text_encoder', 'text_encoder_2'):
    a, b = (getattr(pipeline, component).state_dict() for pipeline in (ours, theirs))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    written, read = (
      json.loads((path / component / 'config.json').read_text())
      for path in (tmp_path / 'out', folder)
    )
    assert written == read
  assert ours.tokenizer_2('a red ball').input_ids == theirs.tokenizer_2('a red ball').input_ids


def cached(prior, home):
  """A hub's cache that holds the prior, as the hub's client lays it out."""
  model = home / 'hub' / f'models--{ID.replace("/", "--")}'
  (model / 'refs').mkdir(parents=True)
  (model / 'refs' / 'main').write_text('0123')
  shutil.copytree(prior, model / 'snapshots' / '0123')
  return model / 'snapshots' / '0123'


def test_a_hub_id_is_read_from_the_cache_without_a_network(prior, tmp_path, monkeypatch):
  snapshot = cached(prior, tmp_path / 'home')
  for path in list(snapshot.rglob('*.safetensors')):
    path.rename(path.with_suffix('.fp16.safetensors'))
  monkeypatch.setenv('HF_HOME', str(tmp_path / 'home'))
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  options = ['--variant=fp16', '--dtype=float32', '--target=out']
  first = ['cdd.convert', f'--source={ID}', *options]
  lines = [first, first, [*first, '--overwrite']]
  lines.append(['cdd.convert', '--source=no/such', *options, '--overwrite'])
  done, again, over, missing = commands.run(lines, cwd=tmp_path)
  said = 'Wrote out: StableDiffusionPipeline (unet, vae, text_encoder).\n'
  assert done.code == over.code == 0 and done.out == over.out == said, done.err
  params = diffusers.load(prior).params
  expect(strict(reference.UNet2DConditionModel, tmp_path / 'out' / 'unet'), params, 'unet')
  assert again.code == 1 and 'out exists; give another --target, or --overwrite' in again.err
  assert missing.code == 1
  assert "no pretrained model at 'no/such': no such folder, and the hub" in missing.err
  assert (tmp_path / 'out' / 'model_index.json').exists()


def test_a_prior_may_be_a_hub_id(prior, tmp_path, monkeypatch):
  import huggingface_hub

  asked = []

  def download(source, *, allow_patterns):
    asked.append(source)
    keep = [path for path in prior.rglob('*') if path.is_file()]
    relative = [str(path.relative_to(prior)) for path in keep]
    kept = list(huggingface_hub.utils.filter_repo_objects(relative, allow_patterns=allow_patterns))
    for name in kept:
      (tmp_path / 'hub' / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(prior / name, tmp_path / 'hub' / name)
    return str(tmp_path / 'hub')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  config = tiny.load('depth.py:tiny', prior)
  config.prior.path = ID
  loaded = priors.load(config.prior, tmp_path, ())
  assert asked == [ID] and loaded.params.keys() == diffusers.load(prior).params.keys()
  assert loaded.tokenizers == dict(tokenizer=tmp_path / 'hub' / 'tokenizer')
  missing = {p.name for p in prior.rglob('*')} - {p.name for p in (tmp_path / 'hub').rglob('*')}
  assert not missing


@pytest.mark.parametrize(
  ('variant', 'files'),
  [
    (None, ['unet/x.safetensors', 'unet/x-00001-of-00002.safetensors']),
    ('fp16', ['unet/x.fp16.safetensors', 'unet/x.fp16-00001-of-00002.safetensors']),
    ('fp16', ['unet/x-00001-of-00002.fp16.safetensors']),
    (None, ['x.safetensors', 'x-00001-of-00002.safetensors']),
  ],
)
def test_only_the_weights_of_one_variant_are_downloaded(variant, files):
  from huggingface_hub.utils import filter_repo_objects

  files = [name.replace('x', 'diffusion_pytorch_model') for name in files]
  always = [
    'model_index.json',
    'tokenizer/merges.txt',
    'vae/config.json',
    f'unet/{FILE}.index.json',
  ]
  never = ['v1-5-pruned.safetensors', 'unet/diffusion_pytorch_model.bin', 'README.md']
  never += ['unet/diffusion_pytorch_model.non_ema.safetensors', 'safety_checker/model.safetensors']
  never += [f'unet/{FILE}'] if variant else ['unet/diffusion_pytorch_model.fp16.safetensors']
  kept = filter_repo_objects([*files, *always, *never], allow_patterns=hub.patterns(variant))
  assert set(kept) == {*files, *always}


def test_components_without_a_variant_are_downloaded_plain(monkeypatch):
  import huggingface_hub

  stem = 'diffusion_pytorch_model'
  files = [f'unet/{stem}.fp16.safetensors', f'unet/{FILE}', f'vae/{FILE}']
  monkeypatch.setattr(huggingface_hub, 'list_repo_files', lambda source: files)
  wanted = hub.patterns('fp16', hub.without(ID, 'fp16'))
  kept = huggingface_hub.utils.filter_repo_objects(files, allow_patterns=wanted)
  assert set(kept) == {files[0], files[2]}


def test_a_hub_that_cannot_be_asked_leaves_the_variant_alone(monkeypatch):
  import huggingface_hub

  def offline(source):
    raise OSError('offline')

  monkeypatch.setattr(huggingface_hub, 'list_repo_files', offline)
  assert hub.without(ID, 'fp16') == set()


def run(prior, folder, adapter, trainable=None, **settings):
  """What a run of an adapter leaves behind, its parameters drawn anew: (folder, parameters)."""
  config = tiny.load('depth.py:tiny', prior)
  config.model.adapter = dict(name=adapter, **settings)
  config.trainable = trainable or config.trainable
  pretrained = priors.load(config.prior, folder, ())
  _, added = priors.networks(config.model, pretrained)
  train, _ = divide(config, {**pretrained.params, **added})
  rng = np.random.default_rng(0)
  params = {key: rng.normal(size=leaf.shape).astype(np.float16) for key, leaf in train.items()}
  trained.save(params, folder / 'export' / 'trained.safetensors')
  (folder / 'export' / 'config.json').write_text(config.to_json_best_effort())
  return folder, {**pretrained.params, **params}


HINTS = dict(hint_widths=(4, 8))
ONLY_ADAPTER = (('adapter[.].*', 'train'), ('.*', 'freeze'))


def test_a_full_parameter_run_becomes_a_pipeline_and_its_adapter(prior, tmp_path):
  folder, params = run(prior, tmp_path / 'run', 'controlnet', **HINTS)
  what = convert(str(folder), tmp_path / 'out')
  both = 'StableDiffusionPipeline, and ControlNetModel in controlnet/'
  assert what == f'{both}, without which it draws from text alone'
  expect(strict(reference.UNet2DConditionModel, tmp_path / 'out' / 'unet'), params, 'unet')
  control = strict(reference.ControlNetModel, tmp_path / 'out' / 'controlnet')
  expect(control, params, 'adapter')
  pipeline = reference.StableDiffusionControlNetPipeline.from_pretrained(
    tmp_path / 'out', controlnet=control
  )
  expect(pipeline.vae, params, 'vae')


def test_a_run_that_trained_its_adapter_alone_becomes_the_adapter(prior, tmp_path):
  folder, params = run(prior, tmp_path / 'run', 'controlnet', ONLY_ADAPTER, **HINTS)
  kind = np.dtype(np.float16)
  assert convert(str(folder), tmp_path / 'out', dtype=kind) == 'ControlNetModel'
  expect(strict(reference.ControlNetModel, tmp_path / 'out'), params, 'adapter', np.float16)
  # And that folder is a source too, as the run's export is.
  assert convert(str(tmp_path / 'out'), tmp_path / 'again') == 'ControlNetModel'
  first, again = (load_file(tmp_path / name / FILE) for name in ('out', 'again'))
  assert first.keys() == again.keys() and all(np.array_equal(first[k], again[k]) for k in first)
  convert(str(folder / 'export'), tmp_path / 'third', dtype=kind)
  assert (tmp_path / 'third' / FILE).read_bytes() == (tmp_path / 'out' / FILE).read_bytes()


def test_a_run_on_a_wider_unet_becomes_instruct_pix2pix(prior, tmp_path):
  folder, params = run(prior, tmp_path / 'run', 'concat')
  assert convert(str(folder), tmp_path / 'out') == 'StableDiffusionInstructPix2PixPipeline'
  pipeline = reference.StableDiffusionInstructPix2PixPipeline.from_pretrained(tmp_path / 'out')
  assert pipeline.unet.config.in_channels == 8
  expect(strict(reference.UNet2DConditionModel, tmp_path / 'out' / 'unet'), params, 'unet')


def test_a_single_file_becomes_the_adapter_that_it_is_said_to_hold(prior, tmp_path):
  folder, _ = run(prior, tmp_path / 'run', 'controlnet', ONLY_ADAPTER)
  convert(str(folder), tmp_path / 'net')
  file = str(tmp_path / 'net' / FILE)
  options = dict(adapter='controlnet', prior=str(prior))
  assert convert(file, tmp_path / 'out', **options) == 'ControlNetModel'
  assert (tmp_path / 'out' / FILE).read_bytes() == Path(file).read_bytes()
  with pytest.raises(UserError, match="Unknown adapter 'control'; choose one of .*'controlnet'"):
    convert(file, tmp_path / 'other', **dict(options, adapter='control'))
  with pytest.raises(UserError, match='--adapter=controlnet needs --prior'):
    convert(file, tmp_path / 'other', adapter='controlnet')


def test_a_run_without_its_weights_or_of_nothing_is_an_error(prior, tmp_path):
  folder, _ = run(prior, tmp_path / 'run', 'controlnet', ONLY_ADAPTER)
  path = folder / 'export' / 'trained.safetensors'
  path.write_bytes(path.read_bytes()[:2000])
  with pytest.raises(UserError, match='trained.safetensors cannot be read'):
    convert(str(folder), tmp_path / 'out')
  with pytest.raises(UserError, match="no pretrained model at .*nowhere'"):
    convert(str(tmp_path / 'nowhere'), tmp_path / 'out')
  assert sorted(p.name for p in tmp_path.iterdir()) == ['run']


def test_only_a_model_is_overwritten(tmp_path):
  check = lambda: command.check_target(tmp_path / 'out', overwrite=True)
  check()
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'diary.txt').write_text('dear')
  with pytest.raises(UserError, match='out holds no model .* so it is not replaced'):
    check()
  (tmp_path / 'out' / 'config.json').write_text('{}')
  check()
  with pytest.raises(UserError, match='out exists; give another --target, or --overwrite'):
    command.check_target(tmp_path / 'out', overwrite=False)


def test_a_model_may_replace_itself(prior, tmp_path):
  convert(str(prior), tmp_path / 'out')
  before = (tmp_path / 'out' / 'vae' / FILE).read_bytes()
  convert(str(tmp_path / 'out'), tmp_path / 'out')
  assert (tmp_path / 'out' / 'vae' / FILE).read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_sizes_are_read_as_diffusers_reads_them():
  assert [command.size(text) for text in ('10GB', '5MiB', '200kb', '7')] == [
    10**10,
    5 * 2**20,
    200_000,
    7,
  ]
  for text in ('ten', '0GB', '-1', '1.5GB', ''):
    with pytest.raises(UserError, match=f'--max_shard_size={text} is no size'):
      command.size(text)
