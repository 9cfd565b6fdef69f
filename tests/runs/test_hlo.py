# ruff: noqa: E501 (lines of HLO are long)
"""What a compiled program costs by its text, beside XLA's own summary and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdd.runs import hlo

# In the form of a TPU's: a loop of 5 turns whose body has a fusion that slices, an all-gather that
# runs beside it (started, gone on with and done: one channel) and a kernel without an estimate.
LOOP = """HloModule jit_f, is_scheduled=true

%sliced (p0: bf16[5,8,128], p1: s32[]) -> bf16[1,8,128] {
  %p0 = bf16[5,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  ROOT %cut = bf16[1,8,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,8,128}
}

%started (q0: bf16[1,8,128]) -> (bf16[1,8,128], bf16[4,8,128]) {
  %q0 = bf16[1,8,128]{2,1,0:T(8,128)} parameter(0)
  %ag.1 = bf16[4,8,128]{2,1,0:T(8,128)} all-gather(%q0), channel_id=7, dimensions={0}
  ROOT %start = (bf16[1,8,128]{2,1,0}, bf16[4,8,128]{2,1,0:S(1)}) custom-call(%ag.1), custom_call_target="AsyncCollectiveStart"
}

%body (c: (s32[], bf16[5,8,128])) -> (s32[], bf16[5,8,128]) {
  %c = (s32[]{:T(128)}, bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%c), index=0
  %w = bf16[5,8,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%c), index=1
  %one = bf16[1,8,128]{2,1,0:T(8,128)(2,1)S(1)} fusion(%w, %n), kind=kLoop, calls=%sliced, backend_config={"window_config":{"estimated_cycles":"1000"}}
  %go = (bf16[1,8,128]{2,1,0:S(1)}, bf16[4,8,128]{2,1,0:S(1)}) fusion(%one), kind=kCustom, calls=%started
  %ag.2 = bf16[4,8,128]{2,1,0:S(1)} all-gather(%one), channel_id=7, dimensions={0}
  %kernel = f32[8,128]{1,0:T(8,128)} custom-call(%one), custom_call_target="tpu_custom_call"
  ROOT %t = (s32[], bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) tuple(%n, %w)
}

%until (c.1: (s32[], bf16[5,8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  %c.1 = (s32[]{:T(128)}, bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %n.1 = s32[]{:T(128)} get-tuple-element(%c.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%n.1, %limit), direction=LT
}

ENTRY %main (a: (s32[], bf16[5,8,128])) -> bf16[5,8,128] {
  %a = (s32[]{:T(128)}, bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %loop = (s32[]{:T(128)}, bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) while(%a), condition=%until, body=%body
  %out = bf16[5,8,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
  ROOT %copy = bf16[5,8,128]{2,1,0:T(8,128)(2,1)} copy(%out), backend_config={"window_config":{"estimated_cycles":"77"}}
}
"""


def test_loops_count_as_often_as_they_turn_and_a_collective_beside_others_once():
  found = hlo.cost(LOOP)
  assert found.cycles == 5 * 1000 + 77
  assert found.collectives == {'all-gather': 5 * 4 * 8 * 128 * 2}
  assert found.silent == {'tpu_custom_call': 5} and found.unknown == 0
  # A slice and its number read, the kernel's result written; what lies in another memory is free.
  one, number, copy = 8 * 128 * 2, 4, 2 * 5 * 8 * 128 * 2
  assert found.bytes == 5 * (one + number + 8 * 128 * 4) + copy


PREFETCHED = """HloModule jit_g, is_scheduled=true

ENTRY %main (w: bf16[3,8,128]) -> bf16[3,8,128] {
  %w = bf16[3,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %start.1 = ((bf16[3,8,128]{2,1,0:T(8,128)(2,1)}), bf16[1,8,128]{2,1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%w), slice={[0:1], [0:8], [0:128]}
  %start.2 = ((bf16[3,8,128]{2,1,0:T(8,128)(2,1)}), bf16[2,8,128]{2,1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%w), slice={[1:3], [0:8], [0:128]}
  %done.1 = bf16[1,8,128]{2,1,0:T(8,128)(2,1)S(1)} slice-done(%start.1)
  %done.2 = bf16[2,8,128]{2,1,0:T(8,128)(2,1)S(1)} slice-done(%start.2)
  ROOT %whole = bf16[3,8,128]{2,1,0:T(8,128)(2,1)} custom-call(%done.1, %done.2), custom_call_target="ConcatBitcast"
}
"""


def test_a_kernel_fetched_into_fast_memory_in_slices_is_read_once():
  found = hlo.cost(PREFETCHED)
  assert found.bytes == (1 + 1) * 3 * 8 * 128 * 2  # Read, and the result written.
  assert found.silent == {}


NESTED = """HloModule jit_h, is_scheduled=true

%cut (q: bf16[5,8,128], i: s32[]) -> bf16[1,8,128] {
  %q = bf16[5,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  ROOT %slice = bf16[1,8,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%q, %i), dynamic_slice_sizes={1,8,128}
}

%outer (q.1: bf16[5,8,128], i.1: s32[]) -> (f32[1,8,128], f32[8]) {
  %q.1 = bf16[5,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i.1 = s32[]{:T(128)} parameter(1)
  %part = bf16[1,8,128]{2,1,0:T(8,128)(2,1)} fusion(%q.1, %i.1), kind=kLoop, calls=%cut
  %wide = f32[1,8,128]{2,1,0:T(8,128)} convert(%part)
  %zero = f32[]{:T(128)} constant(0)
  %sum = f32[8]{0:T(128)} reduce(%wide, %zero), dimensions={0,2}
  ROOT %both = (f32[1,8,128]{2,1,0:T(8,128)}, f32[8]{0:T(128)}) tuple(%wide, %sum)
}

ENTRY %main (w: bf16[5,8,128], n: s32[]) -> (f32[1,8,128], f32[8]) {
  %w = bf16[5,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %n = s32[]{:T(128)} parameter(1)
  %one = (f32[1,8,128]{2,1,0:T(8,128)}, f32[8]{0:T(128)}) fusion(%w, %n), kind=kOutput, calls=%outer
  %x = f32[1,8,128]{2,1,0:T(8,128)} get-tuple-element(%one), index=0
  %y = f32[8]{0:T(128)} get-tuple-element(%one), index=1
  ROOT %all = (f32[1,8,128]{2,1,0:T(8,128)}, f32[8]{0:T(128)}) all-reduce(%x, %y), channel_id=1
}
"""


def test_of_an_array_that_a_fusion_inside_a_fusion_slices_the_slice_is_read():
  slices, number, results = 8 * 128 * 2, 4, 8 * 128 * 4 + 8 * 4
  assert hlo.cost(NESTED).bytes == slices + number + results + 2 * results  # And what is summed.


def test_a_loop_whose_end_is_not_to_be_seen_counts_once_and_says_so():
  found = hlo.cost(LOOP.replace('constant(5)', 'negate(%c.1)'))
  assert found.cycles == 1077 and found.unknown == 1


def compiled(function, *shapes, **settings):
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32, **settings) for shape in shapes]
  return jax.jit(function).lower(*arguments).compile()


def test_bytes_are_those_of_the_compiler_where_there_is_no_loop():
  def run(w, x):
    y = jnp.tanh(x @ w)
    y = jax.lax.dynamic_update_slice(y, 2 * y[:64], (128, 0))
    return (y - y.mean(0, keepdims=True)).sum(1)

  program = compiled(run, (96, 512), (1024, 96))
  found = hlo.cost(program.as_text())
  assert found.bytes == pytest.approx(program.cost_analysis()['bytes accessed'], rel=0.02)
  assert found.cycles is None  # A CPU's compiler estimates none.


def test_bytes_of_a_scan_grow_by_a_turn_and_not_by_the_whole_stack():
  def run(w, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

  costs = [hlo.cost(compiled(run, (n, 128, 128), (64, 128)).as_text()).bytes for n in (4, 8, 12)]
  one, two = np.diff(costs)
  # A turn reads a matrix and a state at least, and not all matrices.
  least = 4 * (128 * 128 + 2 * 64 * 128)
  assert 4 * least <= one == two < 3 * 4 * least
