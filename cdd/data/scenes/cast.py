"""Ray casting: which thing a ray meets and where, and which points a light reaches.

Rays are struct-of-arrays: three broadcastable float32 arrays. Camera rays have length one *along
the optical axis*, so the ray parameter is the z-depth.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from cdd.data.scenes import world

FLOOR, BACKDROP = -1, -2  # what a ray met when it is not the index of a thing


class Rays(NamedTuple):
  """Directions x [1, w], y, z [h, 1] of camera rays; the picture's bounds in half short sides."""

  x: np.ndarray
  y: np.ndarray
  z: np.ndarray
  wide: float
  tall: float


class Hits(NamedTuple):
  """Depth [h, w] float32 and the index [h, w] int8 of what was met: a thing, FLOOR or BACKDROP."""

  depth: np.ndarray
  index: np.ndarray


def rays(camera, height, width):
  """One ray through the centre of every pixel of a height x width picture."""
  short = min(height, width)
  across = (2 * np.arange(width, dtype=np.float32) + 1 - width) / short
  up = (height - 1 - 2 * np.arange(height, dtype=np.float32)) / short
  sin, cos = np.float32(math.sin(camera.pitch)), np.float32(math.cos(camera.pitch))
  u = across[None, :] / np.float32(camera.focal)
  v = up[:, None] / np.float32(camera.focal)
  return Rays(u, cos * v - sin, sin * v + cos, width / short, height / short)


def window(box, beams):
  """The (rows, columns) slices of the pixels whose centres may lie in a box of the picture."""
  height, width = beams.y.shape[0], beams.x.shape[1]
  left, right, bottom, top = box

  def span(low, high, bound, count):
    low, high = max(low, -bound), min(high, bound)
    scale = count / (2 * bound)
    first, last = int((low + bound) * scale), int((high + bound) * scale) + 1
    return slice(first, max(min(last, count), first))

  return span(-top, -bottom, beams.tall, height), span(left, right, beams.wide, width)


def turn(thing, x, z):
  """Rotates world (x, z) into the thing's own axes."""
  cos, sin = np.float32(math.cos(thing.yaw)), np.float32(math.sin(thing.yaw))
  return cos * x - sin * z, sin * x + cos * z


def interval(thing, start, way):
  """Where rays enter and leave a thing, in its own axes; a miss has enter >= leave or NaN."""
  px, py, pz = start
  dx, dy, dz = way
  hx, hy, hz = (np.float32(half) for half in thing.half)
  if thing.shape == 'sphere':
    return roots(
      dx * dx + dy * dy + dz * dz,
      px * dx + py * dy + pz * dz,
      px * px + py * py + pz * pz - hx * hx,
    )
  low, high = slab(py, dy, hy)
  if thing.shape == 'cylinder':
    enter, leave = roots(dx * dx + dz * dz, px * dx + pz * dz, px * px + pz * pz - hx * hx)
    return np.maximum(enter, low), np.minimum(leave, high)
  for p, d, half in ((px, dx, hx), (pz, dz, hz)):
    enter, leave = slab(p, d, half)
    low, high = np.fmax(low, enter), np.fmin(high, leave)
  return low, high


def roots(a, half_b, c):
  """The two roots of a t^2 + 2 half_b t + c, smaller first; NaN where there are none."""
  root = np.sqrt(half_b * half_b - a * c)
  inverse = 1 / a
  return (-half_b - root) * inverse, (root - half_b) * inverse


def slab(p, d, half):
  inverse = 1 / (d + np.float32(1e-30))  # a ray along the slab: huge, not infinite
  middle, spread = p * -inverse, np.abs(half * inverse)
  return middle - spread, middle + spread


def cast(scene, beams):
  """The nearest surface along every camera ray -> Hits."""
  with np.errstate(divide='ignore', invalid='ignore'):
    depth = background(scene, beams)
    index = np.full(depth.shape, BACKDROP, np.int8)
    ground = np.where(beams.y < 0, np.float32(-scene.camera.height) / beams.y, np.float32(np.inf))
    floor = ground < depth
    index[floor] = FLOOR
    depth = np.minimum(depth, ground)
    for number, thing in enumerate(scene.things):
      rows, cols = window(thing_frame(scene.camera, thing), beams)
      way_x, way_z = turn(thing, beams.x[:, cols], beams.z[rows])
      start_x, start_z = turn(thing, np.float32(-thing.x), np.float32(-thing.z))
      start_y = np.float32(scene.camera.height - thing.half[1])
      start, way = (start_x, start_y, start_z), (way_x, beams.y[rows], way_z)
      enter, leave = interval(thing, start, way)
      near = (enter < leave) & (enter < depth[rows, cols])
      np.copyto(depth[rows, cols], enter, where=near)
      np.copyto(index[rows, cols], np.int8(number), where=near)
  return Hits(depth, index)


def background(scene, beams):
  """The depth [h, w] of the backdrop alone."""
  shape = beams.y.shape[0], beams.x.shape[1]
  far = np.full(shape, world.FAR, np.float32)
  if scene.backdrop.kind != 'wall':
    return far
  yaw = scene.backdrop.yaw
  along = np.float32(math.sin(yaw)) * beams.x + np.float32(math.cos(yaw)) * beams.z
  return np.where(along > 0, np.minimum(np.float32(scene.backdrop.distance) / along, far), far)


def light_directions(light, count):
  """Unit vectors [3, count, 1, 2, 1, 2] to points of the light, another set for each subpixel."""
  x, y, z = main = light.direction
  flat = math.hypot(x, z)
  east, north = (x / flat, z / flat) if flat else (0.0, 1.0)  # straight above: any axes do
  side = np.array([(-north, 0, east), (-east * y, flat, -north * y)])
  k = np.arange(4 * count).reshape(count, 2, 2)
  radius, angle = light.softness * np.sqrt((k + 0.5) / (4 * count)), k * 2.39996323  # a sunflower
  offset = np.stack([radius * np.cos(angle), radius * np.sin(angle)]).reshape(2, -1)
  ways = side.T @ offset + np.array(main)[:, None]
  ways /= np.sqrt((ways * ways).sum(0))
  return ways.reshape(3, count, 1, 2, 1, 2).astype(np.float32)


def lit(scene, beams, hits):
  """The share [h, w] in 0..1 of the light that is not hidden from each point by *another* thing."""
  count = 2 if scene.light.softness else 1
  ways = light_directions(scene.light, count)
  clear = np.ones((count, *hits.depth.shape), bool)
  with np.errstate(divide='ignore', invalid='ignore'):
    for number, thing in enumerate(scene.things):
      rows, cols = (even(part) for part in window(shadow_frame(scene, thing, ways), beams))
      depth = hits.depth[rows, cols]
      x, z = beams.x[:, cols] * depth - thing.x, beams.z[rows] * depth - thing.z
      y = beams.y[rows] * depth + np.float32(scene.camera.height - thing.half[1])
      start = [quads(axis) for axis in (*turn(thing, x, z), y)]
      way_x, way_z = turn(thing, ways[0], ways[2])
      enter, leave = interval(thing, (start[0], start[2], start[1]), (way_x, ways[1], way_z))
      shown = (enter < leave) & (leave > 0)
      np.logical_not(shown, out=shown)
      shown |= quads(hits.index[rows, cols] == number)
      part = clear[:, rows, cols]
      part &= shown.reshape(part.shape)
  return sum(clear.view(np.int8)) * np.float32(1 / count)


def even(part):
  """Widens a slice of an even axis to whole pairs."""
  return slice(part.start // 2 * 2, (part.stop + 1) // 2 * 2)


def quads(array):
  """Pairs both axes, [h, w] -> [h / 2, 2, w / 2, 2], to meet one set of lights per subpixel."""
  height, width = array.shape
  return array.reshape(height // 2, 2, width // 2, 2)


@functools.lru_cache(64)  # both grids and the painter ask
def thing_frame(camera, thing):
  """The box in the picture around a thing."""
  if thing.shape == 'sphere':
    return world.frame(camera, thing.center, thing.half[0])
  return points_frame(camera, corners(thing))


def shadow_frame(scene, thing, ways):
  """The box in the picture around a thing and all it can shade: the thing swept to the floor."""
  points, ways = corners(thing), ways.reshape(3, 1, -1)
  shadows = points[:, :, None] - ways * (points[1][:, None] / ways[1])
  return points_frame(scene.camera, np.concatenate([points, shadows.reshape(3, -1)], 1))


def corners(thing):
  """The corners [3, 8] of the upright box around a thing."""
  cos, sin = math.cos(thing.yaw), math.sin(thing.yaw)
  hx, hy, hz = thing.half
  around = [(x * cos + z * sin, z * cos - x * sin) for x in (-hx, hx) for z in (-hz, hz)]
  return np.array([(thing.x + x, y, thing.z + z) for x, z in around for y in (0, 2 * hy)]).T


def points_frame(camera, points):
  """The box (left, right, bottom, top) around the images of points [3, n]; see `world.frame`."""
  sin, cos = math.sin(camera.pitch), math.cos(camera.pitch)
  turned = np.array([(1, 0, 0), (0, cos, sin), (0, -sin, cos)]) @ points
  turned -= np.array([(0.0,), (cos * camera.height,), (-sin * camera.height,)])
  if turned[2].min() < 0.01:
    return -math.inf, math.inf, -math.inf, math.inf
  flat = turned[:2] / turned[2] * camera.focal
  (left, bottom), (right, top) = flat.min(1).tolist(), flat.max(1).tolist()
  return left, right, bottom, top
