"""Surface patterns: two-tone masks in 0..1 for floors and things, smoothed against aliasing."""

import math

import numpy as np


def wave(x, blur):
  """A square wave of period 1 in 0..1 whose edges are `blur` wide; flat (1/2) once blur is 1."""
  triangle = np.abs(x - np.floor(x) - np.float32(0.5)) * 4 - 1  # -1..1
  return np.clip(triangle / np.maximum(4 * blur, np.float32(0.05)), -0.5, 0.5) + np.float32(0.5)


def floor(scene, beams, depth):
  """The floor's mix [h, w] of its second colour at `depth` [h, 1]."""
  pattern = scene.floor
  step = 1.0 / (scene.camera.focal * beams.x.shape[1] / 2)
  cos, sin = np.float32(math.cos(pattern.yaw)), np.float32(math.sin(pattern.yaw))
  x, z = beams.x * depth / np.float32(pattern.period), beams.z * depth / np.float32(pattern.period)
  u, v = cos * x - sin * z, sin * x + cos * z
  blur = depth * np.float32(2 * step / pattern.period)
  far = blur * depth / np.float32(scene.camera.height)  # the floor is seen at a slant
  if pattern.texture == 'striped':
    return fade(wave(u, blur), far)
  if pattern.texture == 'checkered':
    one, two = wave(u * np.float32(0.5), blur), wave(v * np.float32(0.5), blur)
    return fade(one + two - 2 * one * two, far)
  return planks(u * 2, v, far)


def fade(mask, far):
  """Blends a mask into its mean where a pixel covers more than a period of it."""
  return mask + (np.float32(0.5) - mask) * np.clip(far - np.float32(0.5), 0, 1)


def planks(u, v, far):
  """Wooden planks along v: a tone of its own for each, darker seams, faint grain along them."""
  number = np.floor(u)
  part = u - number
  v = v * np.float32(0.6) + number * np.float32(0.37)
  board = np.floor(v)
  tone = np.sin(number * np.float32(12.99) + board * np.float32(78.23)) * np.float32(43.5)
  tone = tone - np.floor(tone)
  grain = np.sin(part * 19 + np.sin(v * 5 + number) * 2) * np.float32(0.12)
  seam = (part < 0.07) | (v - board < 0.025)
  mask = np.clip(tone * np.float32(0.75) + grain + np.float32(0.1), 0, 1)
  mask = np.where(seam, np.float32(1.25), mask)
  return fade(mask, far)


DIRECTIONS = np.array(
  [
    (math.sqrt(1 - y * y) * math.cos(k * 2.39996), y, math.sqrt(1 - y * y) * math.sin(k * 2.39996))
    for k, y in ((k, 1 - (2 * k + 1) / 22) for k in range(22))
  ],
  np.float32,
)


def thing(item, point, flat):
  """A thing's mix [n] of its second colour at local points [3, n]; `flat` is each normal's axis."""
  half = np.array(item.half, np.float32)[:, None]
  unit = point / half
  if item.texture == 'striped':
    along = np.float32(0.45) * unit[0] + unit[1] + np.float32(0.25) * unit[2]
    return wave(along * np.float32(1.3) + np.float32(0.25), np.float32(0.05))
  if item.shape == 'sphere':
    near = (DIRECTIONS @ unit).max(0)
    return np.clip((near - np.float32(0.945)) * 40, -0.5, 0.5) + np.float32(0.5)
  if item.shape == 'cylinder':
    around = np.arctan2(unit[0], unit[2]) * np.float32(3 / math.pi)
    unit = np.stack([np.where(flat == 1, unit[0], around), unit[1], unit[2]])
    flat = np.where(flat == 1, 1, 2)
  cell = unit - np.floor(unit) - np.float32(0.5)
  cell[flat, np.arange(cell.shape[1])] = 0
  apart = np.sqrt((cell * cell).sum(0))
  return np.clip((np.float32(0.3) - apart) * 8, -0.5, 0.5) + np.float32(0.5)
