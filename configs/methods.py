"""The methods to train with, as data: each returns dict(method=..., target=..., ...) overrides."""


def conditional() -> dict:
  """Ours: Algorithm 1 with what the paper leaves open set as measured (docs/findings.md).

  dt / x_weight is the window, in steps of the schedule, over which consistency carries a
  prediction. For one window a large dt carries it in fewer hops, each of which adds its error.
  The weight of consistency rises over half of the run (common.experiment). The target is the
  network itself, as it is then (γ 0), and what is evaluated are the last weights.
  """
  return dict(
    method=dict(
      name='conditional',
      dt=125,
      s_min=0,
      sample_t=dict(name='per_example'),
      predictor=dict(name='ddim'),
      d_eps=dict(name='squared_l2'),
      d_x=dict(name='squared_l2'),
      eps_weight=1.0,
      eps_warmup=0,
      x_weight=4.0,
      x_space='latent',
      weighting='velocity',
    ),
    target=dict(name='ema', decay=0.0),
  )


def paper() -> dict:
  """The paper's exact recipe: Δt = 1, one t for the batch, Eq. 12, both terms unweighted.

  Of γ the paper gives no value. It rises with the updates made, so that a short run's average is
  not of the weights that it started from.
  """
  changes = conditional()
  changes['method'].update(
    dt=1,
    sample_t=dict(name='shared'),
    predictor=dict(name='prev'),
    x_weight=1.0,
    weighting='none',
  )
  changes['target'].update(decay=0.999, warmup=True)
  return changes


def finetune() -> dict:
  """Plain conditional diffusion: the undistilled model that every comparison needs."""
  return dict(
    method=dict(name='finetune', sample_t=dict(name='per_example')),
    target=dict(name='ema', decay=0.0),
  )


METHODS = dict(conditional=conditional, paper=paper, finetune=finetune)
