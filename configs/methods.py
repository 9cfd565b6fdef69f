"""The methods to train with, as data: each returns the config's sections `method` and `target`."""


def conditional() -> dict:
  """The default: Algorithm 1; what the paper leaves open was chosen in docs/findings.md.

  dt / x_weight is the window: over how many timesteps consistency carries a prediction. With a
  large dt the window takes fewer hops, each of which adds an error. The weight of consistency rises
  over half of the run (common.experiment). The target network is the network itself (γ 0), and the
  last weights are evaluated.
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
  """The recipe that the paper prints: Δt = 1, one t for the batch, Eq. 12, both terms unweighted.

  The paper gives no value of γ. Here γ rises with the number of updates, so that the average of a
  short run does not consist of the weights that it started from.
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


def step_aware() -> dict:
  """Beyond the paper: the network is given its step, for 1 to 50 steps with one network.

  share, weights and γ were chosen on validation scenes (docs/step_aware.md).
  """
  return dict(
    model=dict(step_channels=128),
    method=dict(
      name='step_aware',
      sample_t=dict(name='per_example'),
      distance=dict(name='squared_l2'),
      share=0.25,
      share_warmup=0,
      counts=(1, 2, 4, 8),
      weights=(4.0,),
      guidance=(),
    ),
    target=dict(name='ema', decay=0.95),
  )


METHODS = dict(conditional=conditional, paper=paper, finetune=finetune, step_aware=step_aware)
