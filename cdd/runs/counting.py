"""Owns what a program does, counted: products and convolutions of a jaxpr, collectives of HLO."""

import math
import re
from collections import Counter

from jax.extend.core import jaxprs_in_params


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


def collectives(text: str) -> dict[str, int]:
  """Kind -> bytes of the results of the collective operations of an optimised HLO module.

  What lies in a loop counts once.
  """
  kinds = 'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute'
  found = Counter()
  for shapes, kind in re.findall(rf'= (.*?) ({kinds})(?:-done)?\(', text):
    found[kind] += sum(map(bytes_of, re.findall(r'(\w+)\[([\d,]*)\]', shapes)))
  return dict(found)


def bytes_of(shape: tuple[str, str]) -> int:
  """('bf16', '8,128') -> 2048."""
  width = re.search(r'\d+', shape[0])
  bits = int(width[0]) if width else 8
  return bits * math.prod(int(n) for n in shape[1].split(',') if n) // 8
