"""The methods to train with, as data: each returns dict(method=..., target=..., ...) overrides."""


def conditional() -> dict:
  """Ours: Algorithm 1 with the settings that measured best (docs/findings.md)."""
  return dict(
    method=dict(
      name='conditional',
      dt=20,
      sample_t=dict(name='per_example'),
      predictor=dict(name='prev'),
      d_eps=dict(name='squared_l2'),
      d_x=dict(name='squared_l2'),
    ),
    target=dict(name='ema', decay=0.95),
  )


def paper() -> dict:
  """The paper's exact recipe: Δt = 1, one t for the batch, Eq. 12, squared l2 for both terms."""
  changes = conditional()
  changes['method'].update(dt=1, sample_t=dict(name='shared'))
  changes['target'].update(decay=0.999)
  return changes


def finetune() -> dict:
  """Plain conditional diffusion: the undistilled model that every comparison needs."""
  return dict(
    method=dict(name='finetune', sample_t=dict(name='per_example')),
    target=dict(name='ema', decay=0.999, warmup=True),
  )


METHODS = dict(conditional=conditional, paper=paper, finetune=finetune)
