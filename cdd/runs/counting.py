"""Owns the work of a program as it is traced: the products and convolutions of a jaxpr."""

import math

from jax.extend.core import jaxprs_in_params


def of(function, *arguments) -> float:
  """`flops` of a compiled function with these arguments, which it does not run."""
  return flops(function.trace(*arguments).jaxpr.jaxpr)


def flops(jaxpr) -> float:
  """Multiplications and additions of the dot products and convolutions of a jaxpr.

  XLA counts the program after it has rewritten it, which on TPU is other work.
  """
  total = 0.0
  for eqn in jaxpr.eqns:
    name, params = eqn.primitive.name, eqn.params
    if name == 'dot_general':
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
      total += max(flops(branch.jaxpr) for branch in params['branches'])
    else:
      times = params['length'] if name == 'scan' else 1
      total += times * sum(map(flops, jaxprs_in_params(params)))
  return total
