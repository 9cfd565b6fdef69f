"""Owns what a compiled program costs by its text, an optimised HLO module, with loops counted out.

The compiler's own summary (`cost_analysis`) counts the body of a loop once.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
# What reads no more of its first operand than its result holds.
SLICES = frozenset(('slice', 'dynamic-slice', 'gather'))
# A custom call that does nothing: it names slices which lie side by side already as one array.
EMPTY = 'ConcatBitcast'
# Names of what is there already, or is nothing.
FREE = frozenset(
  (
    'parameter',
    'constant',
    'tuple',
    'get-tuple-element',
    'bitcast',
    'after-all',
    'partition-id',
    'iota',
  )
)


class Instruction(NamedTuple):
  """A line of HLO: `[ROOT] %name = shape opcode(inside), rest`."""

  name: str
  shape: str
  opcode: str
  inside: str
  rest: str
  root: bool

  @property
  def operands(self) -> list[str]:
    """The names of what it reads."""
    return re.findall(r'%([\w.-]+)', self.inside)

  def called(self, *words: str) -> list[str]:
    """The computations that attributes of these names name."""
    found = re.findall(rf'\b(?:{"|".join(words)})=(\{{[^}}]*\}}|%[\w.-]+)', self.rest)
    return [name for each in found for name in re.findall(r'%([\w.-]+)', each)]

  @property
  def cycles(self) -> float:
    """The compiler's estimate; 0 if there is none."""
    found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
    return float(found[1]) if found else 0.0


class Cost(NamedTuple):
  """What a program does, on one chip.

  Attributes:
    cycles: that the compiler estimates; None where it says nothing, as on a CPU.
    bytes: of the arrays in HBM that its operations read and write.
    collectives: kind -> bytes that the chip receives.
    silent: custom call -> how often it runs; their cycles are not in `cycles`.
    unknown: loops whose number of turns is not to be seen; they count once.
  """

  cycles: float | None
  bytes: float
  collectives: Mapping[str, float]
  silent: Mapping[str, int]
  unknown: int


def cost(text: str) -> Cost:
  """The cost of an optimised HLO module (`Compiled.as_text()`)."""
  module = Module(text)
  total = module.total(module.entry)
  received = Counter()
  for (kind, _), size in total.received.items():
    received[kind] += size
  cycles = total.cycles if 'estimated_cycles' in text else None
  return Cost(cycles, total.bytes, dict(received), dict(total.silent), total.unknown)


class Total(NamedTuple):
  """The cost of a computation.

  `received`: (kind, channel) -> bytes. A collective operation that runs beside others is there
  several times, with one channel: as it starts and as it ends. It counts once.
  """

  cycles: float = 0.0
  bytes: float = 0.0
  received: Counter = Counter()
  silent: Counter = Counter()
  unknown: int = 0

  def plus(self, other: 'Total', times: int = 1) -> 'Total':
    """With another, so many times."""
    return Total(
      self.cycles + times * other.cycles,
      self.bytes + times * other.bytes,
      self.received | multiplied(other.received, times),
      self.silent + multiplied(other.silent, times),
      self.unknown + other.unknown,
    )


def multiplied(counts: Counter, times: int) -> Counter:
  return Counter({name: times * count for name, count in counts.items()})


class Module:
  """The computations of a module, and their costs."""

  def __init__(self, text: str):
    self.entry, self._totals = '', {}
    self.computations: dict[str, dict[str, Instruction]] = {}
    for line in text.splitlines():
      if start := re.match(r'(ENTRY )?%([\w.-]+) \(.*\{$', line):
        there = self.computations[start[2]] = {}
        self.entry = start[2] if start[1] else self.entry
      elif each := instruction(line):
        there[each.name] = each

  def total(self, name: str) -> Total:
    """Of a computation that runs by itself."""
    if name not in self._totals:
      total = Total()
      for each in self.computations[name].values():
        total = total.plus(*self._of(each, name))
      self._totals[name] = total
    return self._totals[name]

  def _of(self, each: Instruction, name: str) -> tuple[Total, int]:
    """(the cost of an instruction of a computation, how often it is there)."""
    if each.opcode == 'while':
      (condition,) = each.called('condition')
      turns = self._turns(each, condition)
      return self.total(*each.called('body')).plus(Total(unknown=not turns)), turns or 1
    if each.opcode == 'conditional':
      words = ('branch_computations', 'true_computation', 'false_computation')
      branches = map(self.total, each.called(*words))
      return max(branches, key=lambda total: (total.cycles, total.bytes)), 1
    if each.opcode in ('call', 'async-start'):
      inner = each.called('to_apply', 'calls', 'called_computations')
      return functools.reduce(Total.plus, map(self.total, inner), Total()), 1
    inner = self.computations[each.called('calls')[0]] if each.opcode == 'fusion' else {}
    there = self.computations[name]
    moved = read(each, there, inner, self.computations) + written(each, there, inner)
    return Total(each.cycles, moved, received(each, inner), silent(each), 0), 1

  def _turns(self, loop: Instruction, condition: str) -> int | None:
    """How often a loop runs: as the compiler noted, or the number that its counter is held against.

    Loops of jax count upward from 0.
    """
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
      return int(noted[1])
    there = self.computations[condition].values()
    limits = {each.inside for each in there if each.opcode == 'constant' and each.inside.isdigit()}
    return int(limits.pop()) if len(limits) == 1 else None


def instruction(line: str) -> Instruction | None:
  """A line as an instruction; None if it is none."""
  found = re.match(r'\s+(ROOT )?%([\w.-]+) = ', line)
  if not found:
    return None
  start = found.end()
  end = closing(line, start) if line[start] == '(' else line.index(' ', start)
  opening = line.index('(', end)
  close = closing(line, opening)
  return Instruction(
    found[2],
    line[start:end],
    line[end:opening].strip(),
    line[opening + 1 : close - 1],
    line[close:],
    bool(found[1]),
  )


def closing(line: str, start: int) -> int:
  """The place behind the bracket that closes the one at `start`."""
  depth = 0
  for bracket in re.compile(r'[()]').finditer(line, start):
    depth += 1 if bracket[0] == '(' else -1
    if not depth:
      return bracket.end()
  raise ValueError(f'no bracket closes that of {line[:80]!r}')


def sizes(shape: str, *, hbm: bool = False) -> list[int]:
  """The bytes of each array of a shape; with `hbm` 0 for one that lies in another memory."""
  found = re.findall(r'([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?', shape)
  return [0 if hbm and 'S(' in layout else bytes_of(kind, n) for kind, n, layout in found]


def bytes_of(kind: str, shape: str) -> int:
  """('bf16', '8,128') -> 2048."""
  width = re.search(r'\d+', kind)
  bits = int(width[0]) if width else 8
  return -(-bits * math.prod(int(n) for n in shape.split(',') if n) // 8)


def received(each: Instruction, inner: Mapping[str, Instruction]) -> Counter:
  """(kind, channel) -> bytes of the collective operations of an instruction, or of its fusion."""
  found = Counter()
  for other in (each, *inner.values()):
    kind = other.opcode.removesuffix('-done')
    if kind in COLLECTIVES:
      channel = re.search(r'channel_id=(\d+)', other.rest)
      found[kind, channel[1] if channel else other.name] = sum(sizes(other.shape))
  return found


def silent(each: Instruction) -> Counter:
  """The target of a custom call that has no estimate and makes something."""
  target = re.search(r'custom_call_target="([^"]+)"', each.rest)
  works = each.opcode == 'custom-call' and each.operands and not each.cycles
  return Counter({target[1]: 1} if target and works and target[1] != EMPTY else {})


def read(each: Instruction, there: Mapping[str, Instruction], inner, computations) -> float:
  """The bytes of HBM that an operation reads; of an array that it or its fusion slices, the slices.

  Args:
    there, inner: name -> instruction, of its computation and of its fusion.
    computations: name -> such a computation, of fusions inside its fusion.
  """
  if each.opcode in FREE or each.opcode.endswith('-done'):
    return 0
  if each.opcode.removesuffix('-start') in SLICES:
    first, *others = (held(name, there) for name in each.operands)
    # One that runs beside others makes (operands, result, its state).
    result = sizes(each.shape)[-2] if each.opcode.endswith('-start') else sum(sizes(each.shape))
    return min(result, first) + sum(others)
  if each.opcode == 'dynamic-update-slice':
    return held(each.operands[1], there)
  inputs = {int(i.inside): i.name for i in inner.values() if i.opcode == 'parameter'}
  total = 0
  for number, name in enumerate(each.operands):
    whole = held(name, there)
    slices = used(inputs[number], inner, computations) if number in inputs else whole
    total += min(whole, slices)
  return total


def held(name: str, there: Mapping[str, Instruction]) -> int:
  """The bytes of HBM of an instruction's result; 0 of what is none."""
  return sum(sizes(there[name].shape, hbm=True)) if name in there else 0


def used(name: str, inner: Mapping[str, Instruction], computations) -> float:
  """The bytes of an array that a fusion reads of it."""
  if inner[name].root:
    return math.inf
  total = 0
  for user in inner.values():
    if name in user.operands:
      if user.opcode == 'bitcast':
        total += used(user.name, inner, computations)
      elif user.opcode == 'fusion':
        within = computations[user.called('calls')[0]]
        places = [i for i in within.values() if i.opcode == 'parameter']
        same = [i.name for i in places if user.operands[int(i.inside)] == name]
        total += sum(used(other, within, computations) for other in same)
      elif user.opcode in SLICES and user.operands[0] == name:
        total += sum(sizes(user.shape))
      elif user.opcode == 'dynamic-update-slice' and user.operands[0] == name:
        total += 0  # Only what is not written over stays as it is.
      else:
        return math.inf
  return total


def written(each: Instruction, there: Mapping[str, Instruction], inner) -> float:
  """The bytes of HBM that an operation writes; of an array that it updates, the update."""
  if each.opcode in FREE or each.opcode.endswith('-start'):
    return 0
  root = next((i for i in inner.values() if i.root), each)
  within = inner or there
  arrays, total = sizes(each.shape, hbm=True), 0
  several = root.opcode == 'tuple'
  outputs = [within.get(n) for n in root.operands] if several else [root] * len(arrays)
  for size, output in zip(arrays, outputs, strict=False):
    updates = output is not None and output.opcode == 'dynamic-update-slice'
    total += min(size, sum(sizes(within[output.operands[1]].shape))) if updates else size
  return total
