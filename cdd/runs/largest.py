"""Owns the search for the largest batch that fits, in few compilations."""

from collections.abc import Callable

TRIES = 10


def largest(
  peak: Callable[[int], float | None], capacity: float, most: int = 4096
) -> tuple[int, bool]:
  """The largest number whose peak is within a capacity; 0 if not even 1 is.

  Memory grows about linearly with the batch: each try is where the line through the last two that
  fit meets the capacity, or halfway to the smallest that does not fit.

  Args:
    peak: number -> memory, None if the compiler refuses it; called at most 10 times.
    most: beyond which nothing is tried.

  Returns:
    It, and whether the next one was seen not to fit; if not, a larger one may.
  """
  known, beyond, number = {}, most + 1, 1
  for _ in range(TRIES):
    found = peak(number)
    if found is not None and found <= capacity:
      known[number] = found
    else:
      beyond = number
    best = max(known, default=0)
    if beyond - best <= 1:
      break
    number = next_one(known, beyond, capacity)
  best = max(known, default=0)
  return best, beyond == best + 1 <= most


def next_one(known: dict[int, float], beyond: int, capacity: float) -> int:
  """The number to try next, between the largest that fits and what is beyond."""
  if len(known) < 2:
    return 2
  below, best = sorted(known)[-2:]
  slope = (known[best] - known[below]) / (best - below)
  guess = best + int((capacity - known[best]) / slope) if slope > 0 else 2 * best
  return max(guess, best + 1) if guess < beyond else (best + beyond) // 2
