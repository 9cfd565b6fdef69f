"""What a scene is: plain data with named attributes, and how one is drawn at random.

World axes: x right, y up, z away from the camera; the floor is y = 0 and lengths are scene units.
The camera stands at (0, height, 0), looks along +z and is pitched down, never rolled.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

# sRGB, 0..255
COLORS = {
  'red': (214, 40, 40),
  'orange': (244, 128, 24),
  'yellow': (248, 208, 40),
  'green': (52, 160, 60),
  'cyan': (40, 190, 205),
  'blue': (40, 84, 210),
  'purple': (128, 60, 180),
  'pink': (246, 130, 178),
  'brown': (128, 80, 44),
  'white': (240, 240, 236),
  'gray': (132, 134, 140),
  'black': (44, 44, 50),
}
SHAPES = ('sphere', 'cube', 'cylinder')
SIZES = {'small': 0.55, 'medium': 0.8, 'large': 1.1}  # half a width, in scene units
OFTEN = {'small': 0.34, 'medium': 0.42, 'large': 0.24}  # how often each size is drawn
BACKDROPS = {'wall': 0.6, 'blue sky': 0.22, 'sunset sky': 0.18}
FAR = 40.0  # the depth of the sky: floor beyond it is not drawn
MARGIN = 0.12  # the least gap between two things, in scene units
TRIES = 40


class Variety(NamedTuple):
  """What scenes are made of: each choice with its probability, which sum to 1.

  `counts` is how many things a scene has. Of `materials` the first is the dullest and the last the
  brightest.
  """

  counts: Mapping[int, float]
  materials: Mapping[str, float]
  textures: Mapping[str, float]
  floors: Mapping[str, float]


VARIETIES = {
  'all': Variety(
    counts={1: 0.15, 2: 0.3, 3: 0.32, 4: 0.23},
    materials=dict(matte=1 / 3, shiny=1 / 3, metal=1 / 3),
    textures=dict(plain=0.64, striped=0.2, dotted=0.16),
    floors=dict(plain=0.42, checkered=0.22, striped=0.13, wooden=0.23),
  ),
  # What is legible in 64 px and learnt by a small model.
  'simple': Variety(
    counts={1: 0.45, 2: 0.55},
    materials=dict(matte=0.5, shiny=0.5),
    textures=dict(plain=0.8, striped=0.2),
    floors=dict(plain=0.8, checkered=0.2),
  ),
}


class Camera(NamedTuple):
  """Height in scene units, pitch down in radians, focal length in half short sides of the image."""

  height: float
  pitch: float
  focal: float


class Light(NamedTuple):
  """A distant light: unit vector towards it, its angular radius (0: hard shadows), its colour."""

  direction: tuple[float, float, float]
  softness: float
  color: tuple[float, float, float]


class Floor(NamedTuple):
  """The plane y = 0: texture, its two colours' names, period (units) and yaw (radians)."""

  texture: str
  colors: tuple[str, str]
  period: float
  yaw: float


class Backdrop(NamedTuple):
  """A vertical wall (at `distance` along its normal, turned by `yaw`) or one of the skies."""

  kind: str
  color: str
  distance: float
  yaw: float


class Thing(NamedTuple):
  """One object standing on the floor at (x, z), turned by `yaw`.

  `half` holds its half extents (x, y, z) before turning: all equal for a sphere, (r, h, r) for a
  cylinder. The other fields are names: of SHAPES, SIZES, COLORS, and of the
  materials and textures of a `Variety`.
  """

  shape: str
  size: str
  color: str
  material: str
  texture: str
  x: float
  z: float
  half: tuple[float, float, float]
  yaw: float

  @property
  def center(self):
    return self.x, self.half[1], self.z

  @property
  def reach(self):
    """The radius of its footprint on the floor."""
    return math.hypot(self.half[0], self.half[2]) if self.shape == 'cube' else self.half[0]

  @property
  def bulk(self):
    """The radius of a ball about as big as the thing looks."""
    return max(self.half[1] * 1.05, self.reach * 0.95)


class Scene(NamedTuple):
  """Things before a backdrop; `variety` is what it was drawn from, and what edits draw from."""

  camera: Camera
  light: Light
  floor: Floor
  backdrop: Backdrop
  things: tuple[Thing, ...]
  variety: Variety = VARIETIES['all']


def frame(camera, center, radius):
  """The box (left, right, bottom, top) around a ball's image; the short side of the image is -1..1.

  Infinite if the ball reaches behind the camera.
  """
  sin, cos = math.sin(camera.pitch), math.cos(camera.pitch)
  x, y, z = center[0], center[1] - camera.height, center[2]
  up, ahead = y * cos + z * sin, z * cos - y * sin
  if ahead <= radius * 1.01:
    return -math.inf, math.inf, -math.inf, math.inf
  edges = []
  for across in (x, up):
    angle = math.atan2(across, ahead)
    spread = math.asin(radius / math.hypot(across, ahead))
    low, high = max(angle - spread, -1.55), min(angle + spread, 1.55)
    edges += [math.tan(low) * camera.focal, math.tan(high) * camera.focal]
  return tuple(edges)


def pick(rng, choices):
  """One of the choices, evenly, or by the probabilities of a mapping."""
  at = rng.random()
  if not isinstance(choices, Mapping):
    return choices[int(at * len(choices))]
  for choice, weight in choices.items():
    at -= weight
    if at < 0:
      return choice
  return choice


def sample(rng, variety=VARIETIES['all']):
  """Draws a scene; reproducible from the state of `rng`."""
  height = rng.uniform(1.7, 3.1)
  pitch = math.atan((height - 0.55) / 6.0) + rng.uniform(-0.03, 0.03)
  camera = Camera(height, pitch, rng.uniform(2.5, 2.8))
  floor = sample_floor(rng, variety)
  backdrop = sample_backdrop(rng, floor)
  things = ()
  for _ in range(pick(rng, variety.counts)):
    thing = place(rng, camera, floor, backdrop, things, variety)
    things += (thing,) if thing else ()
  while not things:  # never empty; the middle of the picture always has room
    things = tuple(filter(None, [place(rng, camera, floor, backdrop, things, variety)]))
  return Scene(camera, sample_light(rng), floor, backdrop, things, variety)


def sample_light(rng):
  azimuth, elevation = rng.uniform(-1.5, 1.5), rng.uniform(0.75, 1.15)
  flat = math.cos(elevation)
  direction = (flat * math.sin(azimuth), math.sin(elevation), -flat * math.cos(azimuth))
  warmth = rng.uniform(-1, 1)
  color = (1.0 + 0.07 * warmth, 1.0, 1.0 - 0.1 * warmth)
  return Light(direction, pick(rng, (0.0, 0.06, 0.12)), color)


def sample_floor(rng, variety):
  texture = pick(rng, variety.floors)
  names = [pick(rng, tuple(COLORS)), '']
  if texture == 'wooden':
    names = ['brown', 'brown']
  elif texture == 'plain':
    names = ['gray' if names[0] == 'black' else names[0]] * 2
  else:
    names[1] = 'gray' if names[0] == 'white' else 'white'
  return Floor(texture, (names[0], names[1]), rng.uniform(1.0, 1.6), rng.uniform(-0.8, 0.8))


def sample_backdrop(rng, floor):
  kind = pick(rng, BACKDROPS)
  free = [name for name in COLORS if name not in ('black', floor.colors[0])]
  return Backdrop(kind, pick(rng, free), rng.uniform(8.8, 10.5), rng.uniform(-0.25, 0.25))


def place(rng, camera, floor, backdrop, things, variety):
  """Draws a thing that stands clear of `things` and inside the picture, or None if none fits.

  No two things share both shape and colour, so that those two words name one thing, and none has
  the colour of what it stands on.
  """
  shape, material = pick(rng, SHAPES), pick(rng, variety.materials)
  texture = pick(rng, variety.textures)
  color = pick(rng, free_colors(shape, floor, backdrop, things))
  yaw = rng.uniform(-0.78, 0.78)
  size = pick(rng, OFTEN)
  vary = rng.uniform(0.95, 1.05)
  for attempt, (across, near) in enumerate(rng.random((TRIES, 2)).tolist()):
    size = 'small' if attempt > TRIES / 2 else size  # where a bigger one found no room
    half = extents(shape, SIZES[size] * vary)
    z = 4.6 + 2.6 * near
    room = max(z / camera.focal - 1.2 * max(half), 0.0)
    x = (across * 2 - 1) * room
    thing = Thing(shape, size, color, material, texture, x, z, half, yaw)
    if fits(thing, camera, things):
      return thing
  return None


def free_colors(shape, floor, backdrop, things):
  """The colours in which one more thing of that shape differs from all else."""
  taken = {thing.color for thing in things if thing.shape == shape}.union(floor.colors)
  if backdrop.kind == 'wall':
    taken.add(backdrop.color)
  return [name for name in COLORS if name not in taken]


def extents(shape, radius):
  """Half extents of a shape whose looks are about `radius` big."""
  if shape == 'cube':
    return (radius * 0.82,) * 3
  if shape == 'cylinder':
    return radius * 0.78, radius * 1.0, radius * 0.78
  return (radius,) * 3


def fits(thing, camera, things):
  """Whether the thing is in the picture, apart from the others and hides none of them."""
  for other in things:
    apart = math.hypot(thing.x - other.x, thing.z - other.z)
    if apart < thing.reach + other.reach + MARGIN:
      return False
  left, right, bottom, top = box = frame(camera, thing.center, thing.bulk)
  if left < -1 or right > 1 or bottom < -1 or top > 1:
    return False
  for other in things:
    there = frame(camera, other.center, other.bulk)
    wide = min(right, there[1]) - max(left, there[0])
    tall = min(top, there[3]) - max(bottom, there[2])
    if wide > 0 and tall > 0 and wide * tall > 0.35 * min(area(box), area(there)):
      return False
  return True


def area(box):
  return (box[1] - box[0]) * (box[3] - box[2])
