"""Owns attention by one fused kernel on TPUs: jax's splash attention, each device for its part.

It is for kinds of chips on which the compiler keeps no scores of `attention.in_turns` in fast
memory, by its own count (docs/performance.md). It has been compiled for them and run by Pallas's
interpreter; it has not run on a TPU. CDD_FLASH=off leaves it out.
"""

import os

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from cdd.core.types import Array
from cdd.models.ops.parts import automatic, parts

KINDS = frozenset(('TPU v4', 'TPU v5', 'TPU7x'))  # 'TPU v5' is the v5p.
IMAGES, HEADS = ('data', 'fsdp'), ('tensor',)  # The axes of a mesh over which they are cut.
LANES = 128
QUERIES, KEYS = 512, 1024  # Of a block, at most.


def suits(query: Array, key: Array) -> bool:
  """Whether the kernel is for the devices that a program is traced for, and for these shapes."""
  if os.environ.get('CDD_FLASH') == 'off' or device_kind() not in KINDS:
    return False
  images, heads, n, _ = query.shape
  whole = images % parts(*IMAGES) == heads % parts(*HEADS) == 0
  return whole and n % LANES == key.shape[2] % LANES == 0


def device_kind() -> str:
  """The kind of the devices of the mesh in use, or of those that are there."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return (device or jax.devices()[0]).device_kind


def fused(query: Array, key: Array, value: Array, *, interpret: bool = False) -> Array:
  """Attention of [b, h, n, d] to [b, h, m, d]; n and m are multiples of `LANES`.

  Args:
    interpret: runs the kernel on any platform, slowly.
  """

  def on_one(query: Array, key: Array, value: Array) -> Array:
    attend = kernel(*query.shape[1:3], key.shape[2], interpret=interpret)
    return jax.vmap(attend)(query * query.shape[-1] ** -0.5, key, value)

  axes = automatic(*IMAGES, *HEADS)
  if not axes:
    return on_one(query, key, value)
  spec = PartitionSpec(*(tuple(a for a in kind if a in axes) or None for kind in (IMAGES, HEADS)))
  cut = dict(in_specs=spec, out_specs=spec, axis_names={*axes}, check_vma=False)
  return jax.shard_map(on_one, **cut)(query, key, value)


def kernel(heads: int, n: int, m: int, *, interpret: bool = False):
  """(q [h, n, d], k [h, m, d], v [h, m, d]) -> [h, n, d]; scores in float32."""
  rows, columns = block(n, QUERIES), block(m, KEYS)
  sizes = splash.BlockSizes(
    block_q=rows,
    block_kv=columns,
    block_kv_compute=columns,
    block_q_dkv=rows,
    block_kv_dkv=columns,
    block_kv_dkv_compute=columns,
    block_q_dq=rows,
    block_kv_dq=columns,
  )
  mask = masks.MultiHeadMask([masks.FullMask((n, m))] * heads)
  # What it makes has the name that `remat.rematerialized` knows.
  how = dict(residual_checkpoint_name='attention', interpret=interpret)
  return splash.make_splash_mha_single_device(mask, block_sizes=sizes, **how)


def block(n: int, most: int) -> int:
  """The largest multiple of `LANES` that divides n, up to `most`."""
  return next(size for size in range(most, 0, -LANES) if n % size == 0)
