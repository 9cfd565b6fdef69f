import json
import os
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdd.models.ops import attention, flash
from cdd.runs import counting


def drawn(*shape, dtype=np.float32):
  return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


def inputs(b=4, h=3, n=300, m=200, d=8):
  return drawn(b, h, n, d), drawn(b, h, m, d), drawn(b, h + 1, m, d)[:, 1:]


def in_float64(query, key, value, grad):
  """Attention and its three gradients, from their formulas."""
  scale = query.shape[-1] ** -0.5
  query, key, value, grad = (np.asarray(x, np.float64) for x in (query, key, value, grad))
  scores = scale * query @ key.swapaxes(2, 3)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  slopes = grad @ value.swapaxes(2, 3)
  slopes = weights * (slopes - (weights * slopes).sum(-1, keepdims=True))
  gradients = scale * slopes @ key, scale * slopes.swapaxes(2, 3) @ query
  return weights @ value, (*gradients, weights.swapaxes(2, 3) @ grad)


def check(run, arrays, *, atol: float, slopes_atol: float) -> None:
  """Compares attention and its gradients with the formulas."""
  grad = drawn(*arrays[0].shape)
  out, pull = jax.jit(lambda *a: jax.vjp(run, *a))(*arrays)
  truth, slopes = in_float64(*arrays, grad)
  np.testing.assert_allclose(out, truth, atol=atol)
  for ours, theirs in zip(pull(grad), slopes, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=slopes_atol)


# The bytes of a turn: all; two of the four images; some queries of one (300 = 128 + 128 + 44).
@pytest.mark.parametrize('fast', [2**30, 2 * 3 * 300 * 200 * 4, 1])
def test_attention_in_turns_and_its_gradients_are_the_formulas(fast):
  check(partial(attention.in_turns, fast=fast), inputs(), atol=3e-6, slopes_atol=2e-5)


def test_the_gradient_takes_half_as_many_queries_in_a_turn():
  run = lambda *arrays: attention.in_blocks(*arrays, 256)
  arrays = inputs(b=1, h=2, n=512, m=200)
  check(run, arrays, atol=3e-6, slopes_atol=2e-5)
  text = str(jax.make_jaxpr(lambda *a: jax.vjp(run, *a)[1](a[0]))(*arrays))
  assert re.findall(r'length=(\d+)', text) == ['2', '4']


def test_attention_is_the_same_in_turns_of_heads_or_images_and_at_once():
  arrays = inputs()
  first, *others = (f(*arrays) for f in (attention.at_once, attention.by_head, attention.by_image))
  for other in others:
    np.testing.assert_allclose(first, other, atol=2e-6)


@pytest.mark.parametrize('d', [40, 64])
def test_the_fused_kernel_and_its_gradients_are_the_formulas(d):
  arrays, run = inputs(b=2, h=2, n=256, m=384, d=d), partial(flash.fused, interpret=True)
  check(run, arrays, atol=1e-5, slopes_atol=5e-5)
  assert counting.of(jax.jit(run), *arrays) == 4 * 2 * 2 * 256 * 384 * d


def test_the_fused_kernel_is_for_kinds_of_chips_and_whole_blocks(monkeypatch):
  query, key, _ = inputs(b=2, h=2, n=256, m=384)
  assert not flash.suits(query, key)
  monkeypatch.setattr(flash, 'device_kind', lambda: 'TPU v4')
  assert flash.suits(query, key)
  assert not flash.suits(query, key[:, :, :77])
  monkeypatch.setenv('CDD_FLASH', 'off')
  assert not flash.suits(query, key)
  assert [flash.block(n, 512) for n in (128, 640, 1024, 4096, 9216)] == [128, 128, 512, 512, 512]


def test_rare_scores_neither_overflow_nor_vanish():
  query, key, value = inputs(b=1, h=1, n=4, m=5)
  out = attention.in_turns(1e4 * query, key, value, fast=1)
  nearest = np.argmax(query @ key.swapaxes(2, 3), axis=-1)[0, 0]
  np.testing.assert_allclose(out[0, 0], value[0, 0, nearest], rtol=1e-6)


def test_attention_in_bfloat16_rounds_no_more_than_its_inputs():
  arrays = [jnp.asarray(x, jnp.bfloat16) for x in inputs()]
  grad = jnp.asarray(drawn(4, 3, 300, 8), jnp.bfloat16)
  out, pull = jax.vjp(partial(attention.in_turns, fast=1), *arrays)
  truth, slopes = in_float64(*arrays, grad)
  assert out.dtype == jnp.bfloat16
  for ours, theirs in zip((out, *pull(grad)), (truth, *slopes), strict=True):
    error = np.abs(np.asarray(ours, np.float64) - theirs).max()
    assert error < 2**-6 * np.abs(theirs).max()


@pytest.mark.parametrize('n, most, rows', [(4096, 716, 512), (300, 1, 128), (77, 80, 77)])
def test_the_queries_of_a_turn_fill_the_last_one_well(n, most, rows):
  assert attention.queries(n, most) == rows


EIGHT = """
import json, re
from functools import partial
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from cdd.models.ops import attention, flash
from cdd.training import sharding

WAYS = dict(
  in_turns=partial(attention.in_turns, fast=4 * 2 * 128 * 16),
  fused=partial(flash.fused, interpret=True),
)

def talks(compiled):
  return re.search('all-(gather|reduce|to-all)|collective-permute', compiled.as_text()) is not None

def answers(way, **sizes):
  def step(*arrays):
    out, pull = jax.vjp(WAYS[way], *arrays)
    return pull(out)

  mesh = sharding.make_mesh(**sizes)
  place = NamedSharding(mesh, PartitionSpec(('data', 'fsdp'), 'tensor'))
  arrays = np.random.default_rng(0).normal(size=(3, 16, 2, 128, 8)).astype(np.float32)
  placed = [jax.device_put(x, place) for x in arrays]
  known = sharding.jit(step, mesh).lower(*placed).compile()
  unknown = jax.jit(step).lower(*placed).compile()
  truth = jax.vjp(attention.at_once, *arrays)
  pairs = zip(known(*placed), truth[1](truth[0]))
  gap = max(float(np.abs(a - b).max()) for a, b in pairs)
  return dict(known=talks(known), unknown=talks(unknown), gap=gap)

sizes = dict(data=4, fsdp=2), dict(data=2, fsdp=2, tensor=2)
print(json.dumps([answers(way, **each) for way in WAYS for each in sizes]))
"""


def test_each_device_goes_through_its_own_images_if_the_mesh_is_known():
  flags = dict(XLA_FLAGS='--xla_force_host_platform_device_count=8', JAX_PLATFORMS='cpu')
  done = subprocess.run(
    [sys.executable, '-c', EIGHT], env={**os.environ, **flags}, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-2000:]
  for answer in json.loads(done.stdout):
    assert answer['unknown'] and not answer['known'] and answer['gap'] < 1e-5
