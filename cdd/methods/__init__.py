"""Methods: loss(nets, batch, rng, step, *, schedule, num_steps, ...) -> (scalar, metrics)."""

from cdd.methods import conditional, finetune

METHODS = dict(conditional=conditional.loss, finetune=finetune.loss)
