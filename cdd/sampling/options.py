"""Owns the flags of the commands that draw images: which model, and how it draws."""

from absl import flags

from cdd.core.registry import choose
from cdd.diffusion.samplers import SAMPLERS
from cdd.diffusion.times import SPACINGS
from cdd.sampling.settings import Settings

flags.disclaim_key_flags()  # They are those of the command that asks.

OF_MODEL = ('model', 'step', 'adapter', 'vae', 'dtype')


def define_model(default: str | None = 'packaged') -> None:
  """Defines the flags that name a model (`sampling.load`)."""
  flags.DEFINE_string('model', default, "A run, a diffusers folder, 'packaged:depth'.")
  flags.DEFINE_integer('step', None, 'Of a run: its checkpoint of this step.', lower_bound=0)
  flags.DEFINE_string('adapter', None, "The folder of an adapter in diffusers' layout.")
  flags.DEFINE_string('vae', None, "An autoencoder in place of the model's own.")
  flags.DEFINE_string('dtype', 'float32', 'What the networks compute in.')


def define_how() -> None:
  """Defines the flags of guidance, the sampler and the adapter's strength (`Settings`)."""
  flags.DEFINE_float('guidance', None, '1 is none, the default of most models.', lower_bound=0)
  flags.DEFINE_float('image_guidance', None, "InstructPix2Pix's second scale.", lower_bound=0)
  flags.DEFINE_float('rescale', 0.0, 'Of guidance (Lin et al., 2024).', 0, 1)
  default = 'if not given, that of the model'
  flags.DEFINE_string('sampler', None, f'One of {sorted(SAMPLERS)}; {default}.')
  flags.DEFINE_string('spacing', None, f'One of {sorted(SPACINGS)}; {default}.')
  flags.DEFINE_float('adapter_strength', 1.0, 'Of the adapter; 0 is none.', lower_bound=0)
  flags.DEFINE_float('adapter_start', 0.0, 'After this share of the steps it acts.', 0, 1)
  flags.DEFINE_float('adapter_end', 1.0, 'After this share of the steps it does not.', 0, 1)


def check(how: Settings) -> None:
  """Refuses a sampler or a spacing that there is not, before a model is read.

  Raises:
    UserError: lists the choices.
  """
  choose(SAMPLERS, how.sampler or 'ddim', 'sampler')
  choose(SPACINGS, how.spacing or 'trailing', 'spacing')
