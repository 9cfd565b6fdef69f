"""The adapters to train, as data: each returns the fields of `model.adapter`.

`full` is true for Stable Diffusion 1.x and 2.x and false for the packaged prior. The packaged
autoencoder halves the sides of a picture twice, not three times, and the packaged U-Net has three
levels, as SDXL has.
"""


def mu_mix(full: bool) -> dict:
  """Eq. 10 with one μ, as the paper writes it."""
  del full
  return dict(name='mu_mix', per_level=False)


def controlnet(full: bool) -> dict:
  """diffusers' ControlNet; its hint network halves the sides once per width after the first."""
  return dict(name='controlnet', hint_widths=(16, 32, 96, 256) if full else (16, 32, 96))


def t2i_adapter(full: bool) -> dict:
  """diffusers' T2I-Adapter."""
  kind = 'full_adapter' if full else 'full_adapter_xl'
  return dict(name='t2i_adapter', kind=kind, downscale_factor=8)


def concat(full: bool) -> dict:
  """InstructPix2Pix's input: z and the condition, side by side in the channels."""
  del full
  return dict(name='concat')


def none(full: bool) -> dict:
  """Text alone: `common.unconditional` takes the condition out of the examples as well."""
  del full
  return dict(name='none')


# Adapter -> the field by which it reads a mask beside the condition.
MASKED = dict(
  mu_mix=dict(masked=True),
  controlnet=dict(conditioning_channels=4),
  t2i_adapter=dict(in_channels=4),
  concat=dict(masked=True),
  none={},
)
ADAPTERS = dict(
  mu_mix=mu_mix, controlnet=controlnet, t2i_adapter=t2i_adapter, concat=concat, none=none
)

# Adapter -> the pattern of the parameters that are trained when the adapter is trained alone.
STEP = r'unet[.]time_embedding[.]cond_proj[.].*'
OWN = {name: rf'adapter[.].*|{STEP}' for name in ADAPTERS if name != 'none'}
OWN |= dict(concat=rf'unet[.]conv_in[.].*|{STEP}')
