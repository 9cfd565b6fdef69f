"""A scene -> a picture and its depth map, in vectorised NumPy."""

import math

import numpy as np

from cdd.data.scenes import cast, textures, world

GAMMA = 2.2
LINEAR = {
  name: ((np.array(rgb) / 255) ** GAMMA).astype(np.float32) for name, rgb in world.COLORS.items()
}
WOOD = np.array([(0.50, 0.27, 0.12), (0.25, 0.115, 0.045)], np.float32)
SKIES = {  # colours at the horizon and overhead, linear
  'blue sky': np.array([(0.78, 0.87, 0.95), (0.16, 0.40, 0.83)], np.float32),
  'sunset sky': np.array([(1.0, 0.56, 0.25), (0.38, 0.17, 0.40)], np.float32),
}


def render(scene, size):
  """Renders `size` (an int, or (height, width)) pixels -> (image [h, w, 3], depth [h, w]), float32.

  The image is in 0..1, gamma-encoded, the mean of 2x2 rays a pixel. The depth is the distance along
  the optical axis, in scene units, of what the ray through the pixel's centre meets; sky is at
  `world.FAR`.
  """
  height, width = (size, size) if isinstance(size, int) else size
  depth = cast.cast(scene, cast.rays(scene.camera, height, width)).depth
  fine = paint(scene, 2 * height, 2 * width)
  fine = fine[:, ::2] + fine[:, 1::2]
  linear = (fine[:, :, ::2] + fine[:, :, 1::2]) * (0.25 * vignette(height, width))
  image = np.minimum(linear, 1) ** np.float32(1 / GAMMA)
  return np.ascontiguousarray(image.transpose(1, 2, 0)), depth


def vignette(height, width):
  """The lens's falloff [h, w]: 1 in the middle, darker in the corners."""
  up, across = (np.linspace(-1, 1, count, dtype=np.float32) ** 2 for count in (height, width))
  return 1.17 - np.float32(0.14) * (up[:, None] + across)


def paint(scene, height, width):
  """Linear colours [3, height, width], one ray a pixel."""
  beams = cast.rays(scene.camera, height, width)
  hits = cast.cast(scene, beams)
  shade = cast.lit(scene, beams, hits)
  canvas = backdrop(scene, beams, shade)
  floor(scene, beams, hits, shade, canvas)
  for number, item in enumerate(scene.things):
    thing(scene, beams, hits, shade, canvas, number, item)
  return canvas


def sun(light, facing):
  """The light's colour [3] times how squarely it falls, scaled for exposure."""
  return np.array(light.color, np.float32) * np.float32(0.62 * facing)


def backdrop(scene, beams, shade):
  """The wall or the sky over the whole canvas [3, h, w]."""
  kind = scene.backdrop.kind
  if kind != 'wall':
    low, high = SKIES[kind][:, :, None, None]
    pitch = beams.y / beams.z  # the tangent of the ray's elevation
    mix = np.clip(pitch * np.float32(4.5) + np.float32(0.55), 0, 1)
    return (low + (high - low) * mix) * np.ones_like(beams.x)
  normal = -math.sin(scene.backdrop.yaw), -math.cos(scene.backdrop.yaw)
  facing = scene.light.direction[0] * normal[0] + scene.light.direction[2] * normal[1]
  color = LINEAR[scene.backdrop.color] * np.float32(0.55) + np.float32(0.33)
  low, high = color * np.float32(0.62), color * sun(scene.light, max(facing, 0.0))
  return low[:, None, None] + high[:, None, None] * shade


def floor(scene, beams, hits, shade, canvas):
  """Paints the floor into the canvas, in place."""
  first = int(np.argmax(beams.y[:, 0] < 0))
  rows = slice(first, None)
  rows_beams = beams._replace(y=beams.y[rows], z=beams.z[rows])
  depth = np.minimum(np.float32(-scene.camera.height) / rows_beams.y, np.float32(world.FAR))
  one, two = (LINEAR[name] * np.float32(0.8) + np.float32(0.07) for name in scene.floor.colors)
  light = sun(scene.light, scene.light.direction[1])
  base = np.array([0.40, 0.41, 0.43], np.float32)
  dark = contact(scene, beams, depth)
  bright = shade[rows]
  solid = first + int((hits.index[rows] == cast.BACKDROP).any(1).sum())  # the rows below are floor
  here = hits.index[first:solid] == cast.FLOOR
  if scene.floor.texture == 'wooden':
    one, two = WOOD
  mask = None if scene.floor.texture == 'plain' else textures.floor(scene, rows_beams, depth)
  for channel in range(3):
    albedo = one[channel] if mask is None else one[channel] + (two - one)[channel] * mask
    value = albedo * (base[channel] + light[channel] * bright) * dark
    if scene.backdrop.kind != 'wall':  # the far floor fades into the horizon
      haze = np.clip((depth - 9) / 30, 0, 1) * np.float32(0.8)
      value += (SKIES[scene.backdrop.kind][0][channel] - value) * haze
    np.copyto(canvas[channel, first:solid], value[: solid - first], where=here)
    canvas[channel, solid:] = value[solid - first :]


def contact(scene, beams, depth):
  """How much [h, w] of the ambient light reaches floor points close to things: 1 away from them."""
  dark = np.ones((depth.shape[0], beams.x.shape[1]), np.float32)
  sky = beams.y.shape[0] - depth.shape[0]  # the rows above the floor's
  for item in scene.things:
    ball = (item.x, 0.0, item.z)
    box = world.frame(scene.camera, ball, item.reach * 1.7)
    rows, cols = cast.window(box, beams)
    rows = slice(max(rows.start, sky), max(rows.stop, sky))
    away = depth[rows.start - sky : rows.stop - sky]
    x, z = beams.x[:, cols] * away - item.x, beams.z[rows] * away - item.z
    apart = np.sqrt(x * x + z * z) * np.float32(1 / item.reach)
    near = np.clip((np.float32(1.6) - apart) * np.float32(1 / 1.6), 0, 1)
    dark[rows.start - sky : rows.stop - sky, cols] *= 1 - np.float32(0.75) * near * near
  return dark


def thing(scene, beams, hits, shade, canvas, number, item):
  """Paints one thing's visible points into the canvas, in place."""
  rows, cols = cast.window(cast.thing_frame(scene.camera, item), beams)
  there = np.flatnonzero(hits.index[rows, cols] == number)
  if not there.size:
    return
  row, col = np.divmod(there, cols.stop - cols.start)
  row, col = row + rows.start, col + cols.start
  depth = hits.depth[row, col]
  way = np.stack([beams.x[0, col], beams.y[row, 0], beams.z[row, 0]])
  offset = way * depth
  offset -= np.array([item.x, item.half[1] - scene.camera.height, item.z], np.float32)[:, None]
  x, z = cast.turn(item, offset[0], offset[2])
  local = np.stack([x, offset[1], z])
  normal, flat = normals(item, local)
  albedo = LINEAR[item.color][:, None]
  if item.texture != 'plain':
    mask = textures.thing(item, local, flat)
    albedo = albedo + (second(item.color)[:, None] - albedo) * mask
  way /= np.sqrt((way * way).sum(0))
  height = offset[1] + np.float32(item.half[1])
  lights = ambience(normal, height), shade[row, col]
  canvas[:, row, col] = shaded(scene.light, item.material, albedo, normal, way, lights)


def second(color):
  """The other tone of a pattern on a thing of that colour."""
  return LINEAR['gray'] if color == 'white' else LINEAR['white']


def normals(item, local):
  """World unit normals [3, n] at local surface points, and the axis [n] each face is flat along."""
  unit = local / np.array(item.half, np.float32)[:, None]
  count = local.shape[1]
  if item.shape == 'sphere':
    flat, normal = np.zeros(count, int), unit
  elif item.shape == 'cube':
    flat = np.abs(unit).argmax(0)
    normal = np.zeros_like(unit)
    at = flat, np.arange(count)
    normal[at] = np.sign(unit[at])
  else:
    around = np.sqrt(unit[0] * unit[0] + unit[2] * unit[2])
    top = np.abs(unit[1]) > around
    flat = top.astype(int)
    normal = unit * (~top / around)
    normal[1] = np.sign(unit[1]) * top
  back = item._replace(yaw=-item.yaw)
  x, z = cast.turn(back, normal[0], normal[2])
  return np.stack([x, normal[1], z]), flat


def ambience(normal, height):
  """The ambient light [n] on points at `height`: more from above, less close to the floor."""
  ambient = np.float32(0.36) + np.float32(0.13) * normal[1]
  return ambient * (np.float32(0.7) + np.float32(0.3) * np.minimum(height * 2, 1))


def shaded(light, material, albedo, normal, way, lights):
  """Linear colours [3, n] of a material under (ambient light [n], share of the light [n])."""
  ambient, shade = lights
  toward = np.array(light.direction, np.float32)
  facing = np.maximum(toward @ normal, 0) * shade
  color = np.array(light.color, np.float32)[:, None]
  diffuse = albedo * (ambient + np.float32(0.68) * color * facing)
  if material == 'matte':
    return diffuse
  mirror = way - 2 * (way * normal).sum(0) * normal
  gleam = np.maximum(toward @ mirror, 0) * (facing > 0)
  if material == 'shiny':
    rim = (1 - np.abs((way * normal).sum(0))) ** 4
    sky = np.clip(mirror[1] + np.float32(0.2), 0, 1)
    gloss = np.float32(0.06) * panel(mirror) + np.float32(0.3) * rim * sky
    return diffuse * np.float32(0.92) + gloss + np.float32(0.65) * power(gleam, 40) * color
  tint = albedo * np.float32(0.9) + np.float32(0.06)
  glint = np.float32(0.8) * power(gleam, 24) * np.sqrt(tint)
  return tint * (studio(mirror) + np.float32(0.35) * facing) + glint


def power(x, exponent):
  """x to a whole power by squaring; far faster than ** on float32 arrays."""
  result = None
  while exponent:
    if exponent & 1:
      result = x if result is None else result * x
    x, exponent = x * x, exponent >> 1
  return result


def panel(mirror):
  """The soft upright lamps around a scene, 0..1, seen along `mirror` [3, n]."""
  return np.clip(np.cos(mirror[0] * 5 - 1) + np.float32(0.3), 0, 1)


def studio(mirror):
  """What a metal reflects: a bright sky over a dark floor, with a sharp horizon and a lamp."""
  up = mirror[1]
  lamps = panel(mirror)
  sky = np.float32(0.4) + np.float32(0.35) * np.clip(up, 0, 1) + np.float32(0.4) * lamps
  ground = np.float32(0.2) + np.float32(0.25) * np.clip(-up, 0, 1) + np.float32(0.16) * lamps
  return ground + (sky - ground) * np.clip(up * 6 + np.float32(0.8), 0, 1)
