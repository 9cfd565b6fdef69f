"""Folders as they come: shards, variants, old names, other families; and what is written."""

import json
import shutil

import diffusers as reference
import ml_dtypes
import numpy as np
import pytest
import torch
import torch_peers as peers
import transformers
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from cdd.core.errors import UserError
from cdd.models.assemble import assemble
from cdd.models.text import TextConfig
from cdd.models.unet import UNetConfig
from cdd.pretrained import diffusers, families, names, priors

FILE = peers.WEIGHTS


def torch_text(name='CLIPTextModel'):
  torch.manual_seed(2)
  config = transformers.CLIPTextConfig(
    vocab_size=50,
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=10,
    projection_dim=6,
    bos_token_id=48,
    eos_token_id=49,
  )
  return getattr(transformers, name)(config)


def same(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


# Shards, variants, pickles.


@pytest.mark.parametrize('variant', [None, 'fp16'])
def test_shards_of_the_reference_are_one_model(variant, original, tmp_path):
  model = peers.torch_vae().half() if variant else peers.torch_vae()
  model.save_pretrained(tmp_path / 'vae', max_shard_size='5KB', variant=variant)
  assert len(list((tmp_path / 'vae').glob('*.safetensors'))) > 2
  expected = diffusers.load(original).params
  if variant:
    expected = {key: leaf.astype(np.float16).astype(np.float32) for key, leaf in expected.items()}
  assert same(diffusers.load(tmp_path, variant=variant).params, expected)


def test_the_reference_reads_our_shards(original, tmp_path):
  loaded = diffusers.load(original)
  diffusers.save(loaded, tmp_path / 'ours', dtype=np.float32, max_shard_size=5000)
  sizes = [path.stat().st_size for path in (tmp_path / 'ours' / 'vae').glob('*.safetensors')]
  assert len(sizes) > 2
  again, info = reference.AutoencoderKL.from_pretrained(
    tmp_path / 'ours' / 'vae', output_loading_info=True
  )
  assert not any(info[name] for name in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
  expected = peers.torch_vae().state_dict()
  assert all(torch.equal(tensor, expected[key]) for key, tensor in again.state_dict().items())
  assert same(diffusers.load(tmp_path / 'ours').params, loaded.params)


def sharded(folder):
  """The folder's autoencoder in shards, and their index."""
  diffusers.save(diffusers.load(folder), folder, dtype=np.float32, max_shard_size=5000)
  path = folder / 'vae' / (FILE + '.index.json')
  return path, json.loads(path.read_text())


def test_an_index_that_names_a_missing_shard_is_an_error(folder):
  _, index = sharded(folder)
  name = index['weight_map']['encoder.conv_in.weight']
  (folder / 'vae' / name).unlink()
  with pytest.raises(UserError, match=rf"index.json names \['{name}'\], which .*vae does not hold"):
    diffusers.load(folder)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda index: index.pop('weight_map'), 'has no weight_map'),
    (lambda index: index['weight_map'].update(x='../../x.safetensors'), 'has no weight_map'),
    (lambda index: index['weight_map'].update(x=next(iter(index['weight_map'].values()))), 'x in '),
  ],
)
def test_an_index_that_is_wrong_is_an_error(change, message, folder):
  path, index = sharded(folder)
  change(index)
  path.write_text(json.dumps(index))
  with pytest.raises(UserError, match=f'index.json .*{message}'):
    diffusers.load(folder)


def test_a_variant_that_is_missing_is_named_with_what_is_there(folder):
  with pytest.raises(UserError, match=rf"no diffusion_pytorch_model.fp16.safetensors; .*'{FILE}'"):
    diffusers.load(folder, variant='fp16')
  (folder / 'vae' / FILE).rename(folder / 'vae' / 'diffusion_pytorch_model.fp16.safetensors')
  with pytest.raises(UserError, match=rf'no {FILE}; .*variant=fp16'):
    diffusers.load(folder)
  spec = ConfigDict(dict(path=str(folder), variant='fp16'))
  assert priors.load(spec, folder, ()).configs.keys() == {'vae'}


def test_components_without_a_variant_are_read_plain_as_the_reference_does(prior, tmp_path):
  folder = shutil.copytree(prior, tmp_path / 'prior')
  plain = folder / 'unet' / FILE
  doubled = {key: 2 * leaf for key, leaf in load_file(plain).items()}
  save_file(doubled, plain.with_name('diffusion_pytorch_model.fp16.safetensors'))
  was, read = diffusers.load(folder).params, diffusers.load(folder, variant='fp16').params
  for path, leaf in was.items():
    np.testing.assert_array_equal(read[path], leaf * (2 if path.startswith('unet.') else 1))
  theirs = reference.StableDiffusionPipeline.from_pretrained(folder, variant='fp16')
  tensor = theirs.vae.state_dict()['decoder.conv_in.bias'].numpy()
  np.testing.assert_array_equal(read['vae.decoder.conv_in.bias'], tensor)


@pytest.mark.parametrize('suffix', ['bin', 'ckpt', 'pt', 'pth'])
def test_a_pickle_is_refused_with_the_command_that_converts_it(suffix, folder):
  (folder / 'vae' / FILE).rename(folder / 'vae' / f'diffusion_pytorch_model.{suffix}')
  with pytest.raises(UserError, match='from_pretrained.*use_safetensors=False.*save_pretrained'):
    diffusers.load(folder)
  single = folder / f'sd.{suffix}'
  single.write_bytes(b'')
  with pytest.raises(UserError, match='is a file.*from_single_file.*sd.*safe_serialization=True'):
    diffusers.load(single)


def test_half_precision_is_kept_if_asked_for(tmp_path):
  peers.torch_vae().to(torch.bfloat16).save_pretrained(tmp_path / 'vae')
  kept, wide = diffusers.load(tmp_path, dtype=None).params, diffusers.load(tmp_path).params
  assert {leaf.dtype for leaf in kept.values()} == {np.dtype(ml_dtypes.bfloat16)}
  assert same({key: leaf.astype(np.float32) for key, leaf in kept.items()}, wide)


# Names and families.


def test_the_attention_of_older_autoencoders_loads(folder):
  older = dict(to_q='query', to_k='key', to_v='value')
  tree = load_file(folder / 'vae' / FILE)
  names = {key: key.replace('to_out.0', 'proj_attn') for key in tree}
  for new, old in older.items():
    names = {key: name.replace(new, old) for key, name in names.items()}
  expected = diffusers.load(folder).params
  save_file({names[key]: leaf for key, leaf in tree.items()}, folder / 'vae' / FILE)
  assert sum(names[key] != key for key in tree) == 16
  assert same(diffusers.load(folder).params, expected)
  tree['encoder.mid_block.attentions.0.query.bias'] = np.zeros(8, np.float32)
  save_file(tree, folder / 'vae' / FILE)
  with pytest.raises(UserError, match='holds .*to_q.bias twice'):
    diffusers.load(folder)


@pytest.mark.parametrize('component', ['text_encoder', 'text_encoder_2'])
def test_a_text_encoder_loads_under_old_and_new_names(component, tmp_path):
  torch_text(families.COMPONENTS[component].name).save_pretrained(tmp_path / component)
  path = tmp_path / component / 'model.safetensors'
  plain = {key.removeprefix('text_model.'): leaf for key, leaf in load_file(path).items()}
  trees = []
  for prefix in ('', 'text_model.'):
    tree = {prefix * ('text_projection' not in key) + key: leaf for key, leaf in plain.items()}
    tree[f'{prefix}embeddings.position_ids'] = np.arange(10)[None]
    save_file(tree, path)
    trees.append(diffusers.load(tmp_path).params)
  assert same(*trees)
  diffusers.save(diffusers.load(tmp_path), tmp_path / 'ours', dtype=np.float32)
  kind = getattr(transformers, families.COMPONENTS[component].name)
  again = kind.from_pretrained(tmp_path / 'ours' / component).state_dict()
  expected = torch_text(families.COMPONENTS[component].name).state_dict()
  assert again.keys() == expected.keys()
  assert all(torch.equal(again[key], expected[key]) for key in expected)


def index(folder, **fields):
  (folder / 'model_index.json').write_text(json.dumps(fields))


def test_a_folder_of_another_family_is_named(folder, tmp_path):
  index(folder, text_encoder_2=['transformers', 'T5EncoderModel'])
  with pytest.raises(UserError, match='model_index.json: text_encoder_2 is a T5EncoderModel; only'):
    diffusers.load(folder)
  index(folder)
  fields = json.loads((folder / 'vae' / 'config.json').read_text())
  other = dict(fields, _class_name='AutoencoderDC')
  (folder / 'vae' / 'config.json').write_text(json.dumps(other))
  with pytest.raises(UserError, match='vae is a AutoencoderDC; only AutoencoderKL or Auto'):
    diffusers.load(folder)
  (tmp_path / 'control').mkdir()
  (tmp_path / 'control' / 'config.json').write_text('{"_class_name": "ControlNetModel"}')
  with pytest.raises(UserError, match='control is no text-to-image pipeline.*single ControlNetMod'):
    diffusers.load(tmp_path / 'control')


def test_the_weights_of_another_text_encoder_are_listed_and_counted(tmp_path):
  torch_text().save_pretrained(tmp_path / 'text_encoder')
  path = tmp_path / 'text_encoder' / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | dict(hidden_size=16, vocab_size=60)))
  with pytest.raises(UserError) as error:
    diffusers.load(tmp_path)
  stored = load_file(tmp_path / 'text_encoder' / 'model.safetensors')
  narrow = [key for key in stored if 8 in stored[key].shape]
  assert len(narrow) > 10
  named = [
    key for key in narrow if f'{key.removeprefix("text_model.")} has shape' in str(error.value)
  ]
  assert len(named) == names.SHOWN
  assert str(error.value).endswith(f'; and {len(narrow) - names.SHOWN} more.')


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('act_fn', 'gelu'),
    ('down_block_types', ['DownEncoderBlock2D', 'AttnDownEncoderBlock2D']),
    ('mid_block_add_attention', False),
    ('latents_mean', [0.1, 0.2, 0.3, 0.4]),
  ],
)
def test_an_autoencoder_that_computes_something_else_is_refused_by_its_field(field, value, folder):
  path = folder / 'vae' / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
  with pytest.raises(UserError, match=f'vae/config.json: .*autoencoder.*{field} is'):
    diffusers.load(folder)


def test_an_autoencoder_without_quant_convolutions_is_the_references(tmp_path):
  fields = dict(peers.torch_vae().config, use_quant_conv=False, use_post_quant_conv=False)
  theirs = reference.AutoencoderKL.from_config(fields).eval()
  theirs.save_pretrained(tmp_path / 'vae')
  read = diffusers.load(tmp_path)
  networks, _ = assemble(read.configs, read.params, {}, None)
  images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
  with torch.no_grad():
    expected = theirs.encode(torch.tensor(images.transpose(0, 3, 1, 2))).latent_dist
    decoded = theirs.decode(expected.mean).sample
  mean, log_variance = networks.moments(read.params, images)
  channels_last = lambda tensor: tensor.numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(mean, channels_last(expected.mean), atol=1e-5)
  np.testing.assert_allclose(log_variance, channels_last(expected.logvar), atol=1e-5)
  ours = networks.render(read.params, mean)
  np.testing.assert_allclose(ours, channels_last(decoded), atol=1e-5)


# What is written.


def test_config_fields_that_we_do_not_use_survive(folder, tmp_path):
  path = folder / 'vae' / 'config.json'
  fields = json.loads(path.read_text()) | dict(_name_or_path='there', torch_dtype='float32')
  path.write_text(json.dumps(fields))
  loaded = diffusers.load(folder)
  diffusers.save(loaded, tmp_path / 'kept', dtype=None)
  assert json.loads((tmp_path / 'kept' / 'vae' / 'config.json').read_text()) == fields
  changed = loaded.configs['vae']._replace(scaling_factor=0.5)
  loaded = loaded._replace(configs=dict(vae=changed))
  diffusers.save(loaded, tmp_path / 'changed', dtype=np.float16)
  fields |= dict(scaling_factor=0.5, torch_dtype='float16')
  assert json.loads((tmp_path / 'changed' / 'vae' / 'config.json').read_text()) == fields


@pytest.mark.parametrize(
  ('channels', 'second', 'name'),
  [
    (4, False, 'StableDiffusionPipeline'),
    (8, False, 'StableDiffusionInstructPix2PixPipeline'),
    (9, False, 'StableDiffusionInpaintPipeline'),
    (4, True, 'StableDiffusionXLPipeline'),
    (8, True, 'StableDiffusionXLInstructPix2PixPipeline'),
  ],
)
def test_the_index_names_the_pipeline_of_its_networks(channels, second, name):
  configs = dict(unet=UNetConfig(in_channels=channels)) | (
    dict(text_encoder_2=TextConfig()) if second else {}
  )
  read = dict(_class_name='x', force_zeros_for_empty_prompt=False, safety_checker=['a', 'b'])
  made = diffusers.Pretrained(configs, {}, {}, {}, index=read, extras=('safety_checker',))
  written = diffusers.new_index(made)
  assert hasattr(reference, name) and written['_class_name'] == name
  assert written['force_zeros_for_empty_prompt'] is False
  assert written['safety_checker'] == [None, None]


def test_components_that_are_not_read_are_listed(folder):
  index(
    folder,
    vae=['diffusers', 'AutoencoderKL'],
    safety_checker=['stable_diffusion', 'StableDiffusionSafetyChecker'],
    image_encoder=[None, None],
    requires_safety_checker=True,
  )
  assert diffusers.load(folder).extras == ('safety_checker',)


def test_an_error_leaves_nothing_behind_and_the_old_folder_whole(folder, tmp_path):
  loaded = diffusers.load(folder)
  diffusers.save(loaded, tmp_path / 'ours')
  before = sorted((p, p.stat().st_size) for p in tmp_path.rglob('*'))
  loaded.params['vae.decoder.conv_out.bias'] = np.full(3, 1e6, np.float32)
  with pytest.raises(UserError, match='decoder.conv_out.bias has 3 values .* in float16'):
    diffusers.save(loaded, tmp_path / 'ours', dtype=np.float16)
  assert sorted((p, p.stat().st_size) for p in tmp_path.rglob('*')) == before
