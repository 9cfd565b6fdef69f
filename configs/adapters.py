"""The adapters to train, as data: each returns the fields of `model.adapter`.

`full` tells Stable Diffusion 1.x and 2.x from the packaged prior, whose autoencoder halves pixels
twice instead of three times and whose U-Net has the levels of SDXL's.
"""


def mu_mix(full: bool) -> dict:
  """Eq. 10 with one μ, as the paper writes it."""
  del full
  return dict(name='mu_mix', per_level=False)


def controlnet(full: bool) -> dict:
  """diffusers' ControlNet; its hint network halves pixels once per width but the first."""
  return dict(name='controlnet', hint_widths=(16, 32, 96, 256) if full else (16, 32, 96))


def t2i_adapter(full: bool) -> dict:
  kind = 'full_adapter' if full else 'full_adapter_xl'
  return dict(name='t2i_adapter', kind=kind, downscale_factor=8)


def concat(full: bool) -> dict:
  """InstructPix2Pix's input of z and the condition."""
  del full
  return dict(name='concat')


ADAPTERS = dict(mu_mix=mu_mix, controlnet=controlnet, t2i_adapter=t2i_adapter, concat=concat)

# What is the adapter's own in each: all that moves when it is trained alone.
OWN = {name: r'adapter[.].*' for name in ADAPTERS} | dict(concat=r'unet[.]conv_in[.].*')
