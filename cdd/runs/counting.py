"""Owns the work of a program as it is traced: the products and convolutions of a jaxpr."""

import math

from jax.extend.core import jaxprs_in_params


def of(function, *arguments) -> float:
  """`flops` of a compiled function with these arguments, which it does not run."""
  return flops(function.trace(*arguments).jaxpr.jaxpr)


def flops(jaxpr, *, kernels: bool = False) -> float:
  """Multiplications and additions of the dot products and convolutions of a jaxpr, on all devices.

  XLA counts the program after it has rewritten it, which on TPU is other work.

  Args:
    kernels: counts those of fused kernels (`ops.flash`) alone.
  """
  total = 0.0
  for eqn in jaxpr.eqns:
    name, params = eqn.primitive.name, eqn.params
    if name == 'pallas_call':
      total += times(eqn) * flops(params['jaxpr'])
    elif params.get('name') == 'by_groups':
      continue  # `ops.rows`: mostly zeros, beside a branch that does the same without them.
    elif kernels and name in ('dot_general', 'conv_general_dilated'):
      continue
    elif name == 'dot_general':
      left = eqn.invars[0].aval.shape
      contracted = math.prod(left[axis] for axis in params['dimension_numbers'][0][0])
      total += 2 * eqn.outvars[0].aval.size * contracted
    elif name == 'conv_general_dilated':
      kernel = eqn.invars[1].aval
      outputs = kernel.shape[params['dimension_numbers'].rhs_spec[0]]
      # A dilated input holds zeros, which are not work.
      zeros = math.prod(params['lhs_dilation'])
      total += 2 * eqn.outvars[0].aval.size * kernel.size / outputs / zeros
    elif name == 'cond':
      total += max(flops(branch.jaxpr, kernels=kernels) for branch in params['branches'])
    else:
      inner = (flops(each, kernels=kernels) for each in jaxprs_in_params(params))
      total += times(eqn) * sum(inner)
  return total


def times(eqn) -> int:
  """How often what is in an equation runs: the turns of a loop, the parts of a grid or a mesh."""
  params = eqn.params
  counts = dict(
    scan=lambda: params['length'],
    pallas_call=lambda: math.prod(params['grid_mapping'].grid),
    shard_map=lambda: math.prod(params['mesh'].shape[axis] for axis in params['newly_manual_axes']),
  )
  return counts.get(eqn.primitive.name, lambda: 1)()
