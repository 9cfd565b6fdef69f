"""Scenes: geometry against closed forms and a scalar ray caster, words against the scene's data."""

import itertools
import math
import pickle
import re
import time

import numpy as np
import pytest

from cdd.data.scenes import VOCABULARY, Scenes, cast, edits, render, world
from cdd.data.scenes.world import Backdrop, Camera, Floor, Light, Scene, Thing

LEVEL = Camera(height=1.0, pitch=0.0, focal=2.0)
SUN = Light((0.0, 1.0, 0.0), 0.0, (1.0, 1.0, 1.0))
PLAIN = Floor('plain', ('gray', 'gray'), 1.0, 0.0)
WALL = Backdrop('wall', 'blue', 10.0, 0.0)


def thing(shape='sphere', x=0.0, z=5.0, half=(1.0, 1.0, 1.0), yaw=0.0, color='red'):
  return Thing(shape, 'medium', color, 'matte', 'plain', x, z, half, yaw)


def scene(*things, camera=LEVEL, light=SUN, backdrop=WALL):
  return Scene(camera, light, PLAIN, backdrop, things)


def depth_of(world_scene, size=65):
  return render.render(world_scene, size)[1]


def meets(item, origin, way):
  """Where a ray first meets a thing, in float64, face by face; infinity if nowhere."""
  cos, sin = math.cos(item.yaw), math.sin(item.yaw)

  turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
  p, d = turn @ (origin - np.array([item.x, item.half[1], item.z])), turn @ way
  half, found = np.array(item.half), [math.inf]
  if item.shape != 'cube':
    axes = [0, 1, 2] if item.shape == 'sphere' else [0, 2]
    poly = [(d[axes] ** 2).sum(), 2 * (p * d)[axes].sum(), (p[axes] ** 2).sum() - half[0] ** 2]
    for t in np.roots(poly):
      if np.isreal(t) and (item.shape == 'sphere' or abs((p + t.real * d)[1]) <= half[1]):
        found.append(t.real)
  if item.shape != 'sphere':
    for axis, side in itertools.product([1] if item.shape == 'cylinder' else range(3), (-1, 1)):
      t = (side * half[axis] - p[axis]) / d[axis]
      at = p + t * d
      rest = [k for k in range(3) if k != axis]
      within = np.hypot(*at[rest]) <= half[0] if item.shape == 'cylinder' else None
      if within if within is not None else (np.abs(at[rest]) <= half[rest]).all():
        found.append(t)
  return min(t for t in found if t > 1e-6)


def looks_along(camera, row, column, size):
  """The world direction of one pixel's ray, of length one along the optical axis."""
  u, v = (2 * column + 1 - size) / size / camera.focal, (size - 1 - 2 * row) / size / camera.focal
  cos, sin = math.cos(camera.pitch), math.sin(camera.pitch)
  return np.array([u, 0, 0]) + v * np.array([0, cos, sin]) + np.array([0, -sin, cos])


def brute_depth(world_scene, row, column, size):
  camera, wall = world_scene.camera, world_scene.backdrop
  origin, way = np.array([0, camera.height, 0]), looks_along(camera, row, column, size)
  found = [world.FAR] + [meets(item, origin, way) for item in world_scene.things]
  if way[1] < 0:
    found.append(camera.height / -way[1])
  if wall.kind == 'wall':
    found.append(wall.distance / (math.sin(wall.yaw) * way[0] + math.cos(wall.yaw) * way[2]))
  return min(t for t in found if t > 0)


def test_the_depth_of_a_sphere_is_its_distance_less_its_radius():
  depth = depth_of(scene(thing()))
  assert depth.shape == (65, 65) and depth.dtype == np.float32
  assert depth[32, 32] == pytest.approx(4.0, abs=1e-5)
  # Off the axis, at tangent u: |t(u, 0, 1) - (0, 0, 5)| = 1.
  u = (2 * 36 + 1 - 65) / 65 / 2
  a, b, c = 1 + u * u, -10.0, 24.0
  assert depth[32, 36] == pytest.approx((-b - math.sqrt(b * b - 4 * a * c)) / (2 * a), abs=1e-5)


def test_the_depth_of_a_facing_box_is_one_number():
  depth = depth_of(scene(thing('cube')))
  face = depth[32 - 14 : 32 + 15, 32 - 14 : 32 + 15]  # the face spans tangents -1/4..1/4
  np.testing.assert_allclose(face, 4.0, atol=1e-5)


def test_the_depth_of_a_cylinder_and_of_a_turned_box_on_the_axis():
  assert depth_of(scene(thing('cylinder', half=(0.5, 1.0, 0.5))))[32, 32] == pytest.approx(4.5)
  turned = depth_of(scene(thing('cube', yaw=math.pi / 4)))
  assert turned[32, 32] == pytest.approx(5 - math.sqrt(2), abs=1e-5)


def test_the_depth_of_the_floor_follows_the_row_and_the_wall_and_sky_are_flat():
  depth = depth_of(scene())
  row = 60
  assert depth[row, 5] == pytest.approx(1 / ((2 * row - 64) / 65 / 2), rel=1e-5)
  np.testing.assert_allclose(depth[:33], 10.0, rtol=1e-6)
  sky = depth_of(scene(backdrop=Backdrop('blue sky', 'blue', 10.0, 0.0)))
  np.testing.assert_allclose(sky[:33], world.FAR)


def test_the_nearest_of_two_things_wins():
  near, far = thing(z=4.0, half=(0.5,) * 3), thing(z=7.0)
  camera = LEVEL._replace(height=0.5)
  for things in ((near, far), (far, near)):
    depth = depth_of(scene(*things, camera=camera))
    assert depth[32, 32] == pytest.approx(3.5, abs=1e-5)
    image, _ = render.render(
      scene(*(t._replace(color='green') if t == near else t for t in things), camera=camera), 65
    )
    assert image[32, 32, 1] > 2 * image[32, 32, 0]


def test_depth_agrees_with_a_scalar_ray_caster_on_random_pixels():
  source, rng, size = Scenes(size=40, seed=11), np.random.default_rng(0), 40
  checked = np.zeros(3, int)
  for index in range(40):
    world_scene, depth = source.scene(index)[0], source[index]['depth']
    for row, column in rng.integers(0, size, (25, 2)):
      expected = brute_depth(world_scene, row, column, size)
      assert depth[row, column] == pytest.approx(expected, rel=2e-4), (index, row, column)
    hits = cast.cast(world_scene, cast.rays(world_scene.camera, size, size))
    for number, item in enumerate(world_scene.things):
      checked[world.SHAPES.index(item.shape)] += (hits.index == number).sum()
  assert (checked > 500).all()


def test_a_hard_shadow_agrees_with_a_scalar_ray_to_the_light():
  source, rng, size = Scenes(seed=5), np.random.default_rng(1), 40
  dark = 0
  for index in range(25):
    world_scene = source.scene(index)[0]
    world_scene = world_scene._replace(light=world_scene.light._replace(softness=0.0))
    beams = cast.rays(world_scene.camera, size, size)
    hits = cast.cast(world_scene, beams)
    lit = cast.lit(world_scene, beams, hits)
    for row, column in rng.integers(0, size, (60, 2)):
      if hits.depth[row, column] >= world.FAR:
        continue
      way = looks_along(world_scene.camera, row, column, size)
      point = np.array([0, world_scene.camera.height, 0]) + way * float(hits.depth[row, column])
      others = [k for k in range(len(world_scene.things)) if k != hits.index[row, column]]
      toward = np.array(world_scene.light.direction)
      hidden = any(meets(world_scene.things[k], point, toward) < math.inf for k in others)
      assert lit[row, column] == (not hidden), (index, row, column)
      dark += hidden
  assert dark > 20


def test_the_shadow_of_a_sphere_falls_where_the_light_says():
  light = SUN._replace(direction=(0.6, 0.8, 0.0))
  camera = Camera(height=3.0, pitch=0.5, focal=2.0)
  ball = thing(x=0.0, z=5.0, half=(0.5,) * 3)
  size = 201
  hard = render.render(scene(ball, camera=camera, light=light), size)[0]
  none = render.render(scene(camera=camera, light=light), size)[0]

  def pixel(x, z):
    ahead = z * math.cos(0.5) + 3 * math.sin(0.5)
    up = z * math.sin(0.5) - 3 * math.cos(0.5)
    u, v = x / ahead * 2, up / ahead * 2
    return round((size - 1 - v * size) / 2), round((u * size + size - 1) / 2)

  shade = pixel(-0.5 * 0.6 / 0.8 - 0.45, 5.0)  # the centre's shadow is at x = -0.375
  clear = pixel(-0.5 * 0.6 / 0.8 - 1.0, 5.0)
  assert hard[shade].mean() < 0.8 * none[shade].mean()
  np.testing.assert_allclose(hard[clear], none[clear], atol=1e-6)


def test_a_soft_shadow_has_a_half_lit_rim_and_a_dark_middle():
  light = SUN._replace(softness=0.12)
  camera = Camera(height=3.0, pitch=0.5, focal=2.0)
  plate = thing('sphere', z=5.0, half=(1.0,) * 3)
  beams = cast.rays(camera, 128, 128)
  hits = cast.cast(scene(plate, camera=camera), beams)
  lit = [cast.lit(scene(plate, camera=camera, light=at), beams, hits) for at in (light, SUN)]
  assert set(np.unique(lit[1])) == {0.0, 1.0}
  assert {0.0, 0.5, 1.0} <= set(np.unique(lit[0]))
  assert (lit[0][lit[1] == 1] > 0).mean() > 0.95


def test_the_same_index_gives_the_same_example_and_others_differ():
  source, again = Scenes(size=16, edits=True), Scenes(size=16, edits=True)
  one, two = source[7], again[7]
  assert one.keys() == two.keys()
  for key in one:
    np.testing.assert_array_equal(one[key], two[key])
  assert (source[8]['image'] != one['image']).any()
  assert (Scenes(size=16, seed=1)[7]['image'] != one['image']).any()
  np.testing.assert_array_equal(Scenes(size=16, start=5)[2]['image'], one['image'])
  np.testing.assert_array_equal(Scenes(size=16)[np.int64(7)]['image'], one['image'])
  assert Scenes(size=8, start=10**12)[3]['image'].shape == (8, 8, 3)


def test_images_are_float32_well_exposed_and_of_any_size():
  source = Scenes(size=(20, 33))
  assert source[0]['image'].shape == (20, 33, 3) and source[0]['depth'].shape == (20, 33)
  assert Scenes(size=1)[0]['image'].shape == (1, 1, 3)
  images = np.stack([Scenes(size=24, seed=2)[i]['image'] for i in range(100)])
  assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
  means = images.mean((1, 2, 3))
  assert means.min() > 0.25 and means.max() < 0.9
  assert (images.max(-1) < 0.08).mean() < 0.01  # no black regions
  assert (images.min(-1) > 0.995).mean() < 0.01  # no blown highlights


def test_a_larger_render_shrinks_to_the_smaller_one():
  for index in range(5):
    small, large = (Scenes(size=size)[index]['image'] for size in (32, 128))
    shrunk = (large**2.2).reshape(32, 4, 32, 4, 3).mean((1, 3)) ** (1 / 2.2)
    assert np.abs(shrunk - small).mean() < 0.02


def phrases(text):
  """A caption's parts: things [(count, set of words, shape)], the floor's words, the backdrop's."""
  text = re.sub(r'^a (picture of|scene with|photo of) ', '', text)
  things, floor, backdrop = re.fullmatch(
    r'(.*?)(?: on an? (.*?floor))?(?: (in front of an? .*?wall|under an? .*?sky))?', text
  ).groups()
  numbers = dict(a=1, an=1, two=2, three=3, four=4)
  kinds = dict(ball='sphere', block='cube')
  parsed = []
  for phrase in re.split(r', | and (?=a |an |two |three |four )', things):
    count, *words, noun = phrase.split()
    noun = noun[:-1] if numbers[count] > 1 else noun
    parsed += [(set(words), kinds.get(noun, noun))] * numbers[count]
  return parsed, floor, backdrop


def describes(words, shape, item):
  true = {item.size, item.material, item.color, item.texture}
  return shape == item.shape and words <= true


def check_caption(text, world_scene):
  parsed, floor, backdrop = phrases(text)
  assert len(parsed) == len(world_scene.things), text
  assert any(
    all(describes(*part, item) for part, item in zip(parsed, order, strict=True))
    for order in itertools.permutations(world_scene.things)
  ), text
  if floor:
    colors = set(floor.split()) & set(world.COLORS)
    textures = set(floor.split()) & set(world.VARIETIES['all'].floors)
    assert textures <= {world_scene.floor.texture}, text
    assert not colors or colors == set(world_scene.floor.colors), text
  if backdrop:
    kind = world_scene.backdrop.kind
    assert backdrop.endswith('wall') == (kind == 'wall'), text
    assert set(backdrop.split()) & set(world.COLORS) <= {*kind.split(), world_scene.backdrop.color}
    assert 'sunset' not in backdrop or kind == 'sunset sky', text


def test_every_word_of_a_caption_is_true_and_the_number_of_things_right():
  for detail in (0.0, 0.5, 1.0):
    source = Scenes(size=1, seed=3, detail=detail)
    for index in range(150):
      check_caption(source[index]['caption'], source.scene(index)[0])


def test_every_word_of_an_edited_caption_is_true_of_the_edited_scene():
  source = Scenes(seed=8)
  for index in range(200):
    world_scene, rng = source.scene(index)
    edited, _, text = edits.edit(world_scene, rng, 0.7)
    check_caption(text, edited)


def test_detail_decides_how_much_a_caption_tells():
  lengths = [
    np.mean([len(Scenes(size=1, detail=detail)[i]['caption'].split()) for i in range(60)])
    for detail in (0.0, 0.5, 1.0)
  ]
  assert lengths[0] + 2 < lengths[1] < lengths[2] - 2


def test_captions_and_instructions_stay_within_the_vocabulary():
  source, seen = Scenes(size=1, edits=True, detail=0.8), set()
  for index in range(700):
    example = source[index]
    for key in ('caption', 'edited_caption', 'instruction'):
      seen.update(re.findall(r'\w+|[^\w\s]', example[key]))
  assert seen <= set(VOCABULARY), seen - set(VOCABULARY)
  plurals = {'three', 'four', 'spheres', 'balls', 'cubes', 'blocks', 'cylinders'}  # all are rare
  assert set(VOCABULARY) - seen <= plurals


def apart(world_scene):
  things = world_scene.things
  return len({(item.shape, item.color) for item in things}) == len(things) and all(
    math.hypot(one.x - two.x, one.z - two.z) > one.reach + two.reach
    for one, two in itertools.combinations(things, 2)
  )


def test_shape_and_colour_name_one_thing_and_no_two_things_touch():
  for index in range(200):
    world_scene = Scenes(seed=4).scene(index)[0]
    assert 1 <= len(world_scene.things) <= 4 and apart(world_scene)


def region(world_scene, items, size):
  """Pixels that things cover, shade or darken by contact, from their own frames: bool [h, w]."""
  beams, mask = cast.rays(world_scene.camera, size, size), np.zeros((size, size), bool)
  ways = cast.light_directions(world_scene.light, 2)
  for item in items:
    halo = world.frame(world_scene.camera, (item.x, 0, item.z), item.reach * 1.7)
    for box in (cast.shadow_frame(world_scene, item, ways), halo):
      rows, columns = cast.window(box, beams)
      mask[max(rows.start - 1, 0) : rows.stop + 1, max(columns.start - 1, 0) : columns.stop + 1] = (
        True
      )
  return mask


@pytest.mark.parametrize('kind', list(edits.EDITS))
def test_an_edited_twin_differs_only_where_it_should(kind):
  done, size = 0, 48
  for index in range(40):
    before, rng = Scenes(seed=6).scene(index)
    result = edits.EDITS[kind](before, rng)
    if not result:
      continue
    after, done = result[0], done + 1
    assert (after.camera, after.light) == (before.camera, before.light) and apart(after)
    old, new = (render.render(each, size)[0] for each in (before, after))
    changed = np.abs(old - new).max(-1) > 1e-5
    beams = cast.rays(before.camera, 2 * size, 2 * size)
    fine = cast.cast(before, beams).index.reshape(size, 2, size, 2).transpose(0, 2, 1, 3)
    if kind in ('refloor', 'rebackdrop'):
      inside = (fine >= 0).all((2, 3))  # whole pixels of things stay
      assert not (changed & inside).any(), (index, result[1])
    else:
      items = set(before.things) ^ set(after.things)
      assert not (changed & ~region(before, items, size)).any(), (index, result[1])
    if kind in ('recolor', 'rematerial', 'retexture'):
      number = next(k for k, item in enumerate(before.things) if item not in after.things)
      assert not (changed & ~(fine == number).any((2, 3))).any(), (index, result[1])
    assert changed.any(), (index, result[1])
  assert done > 10


def test_an_instruction_means_one_thing_and_only_that_thing_changes():
  source, seen = Scenes(seed=9), set()
  for index in range(200):
    before, rng = source.scene(index)
    after, text, _ = edits.edit(before, rng)
    match = re.search(r'the (\w+ )?(sphere|ball|cube|block|cylinder)', text)
    gone, come = set(before.things) - set(after.things), set(after.things) - set(before.things)
    seen.add(text.split()[0])
    if not match:
      assert not gone and len(come) == text.startswith(('add', 'put')), text
      continue
    color, shape = match[1], dict(ball='sphere', block='cube').get(match[2], match[2])
    meant = [
      item
      for item in before.things
      if item.shape == shape and (color is None or item.color == color.strip())
    ]
    assert set(meant) == gone and len(meant) == 1 and len(come) <= 1, text
    for new in come:  # what changed is what the instruction's last word says, or its size
      values = {new.size, new.color, new.material, new.texture, new.shape}
      assert text.split()[-1] in values | {'bigger', 'smaller'}, text
  assert {'make', 'remove', 'add', 'turn'} <= seen


def test_the_source_is_stable_in_print_and_travels_to_a_worker():
  source = Scenes(size=8, seed=3, start=100, length=50)
  assert repr(source) == repr(Scenes(size=8, seed=3, start=100, length=50))
  assert 'start=100' in repr(source) and '0x' not in repr(source) and len(source) == 50
  np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[4]['image'], source[4]['image'])


def test_bad_indices_and_bad_settings_are_named():
  source = Scenes(length=10)
  for index in (10, -1):
    with pytest.raises(IndexError, match=rf'Scene {index} is out of range; choose one of 0..9'):
      source[index]
  with pytest.raises(TypeError):
    source[1.5]
  for size in (0, -4, (8, 0), (8, 8, 3), ()):
    with pytest.raises(ValueError, match='size is'):
      Scenes(size=size)
  for settings in (dict(length=0), dict(start=-1), dict(seed=-1), dict(detail=1.5)):
    with pytest.raises(ValueError, match=next(iter(settings))):
      Scenes(**settings)


def test_how_long_a_scene_takes():
  source = Scenes()
  source[0]
  start = time.perf_counter()
  for index in range(100):
    source[index]
  print(f'{10 * (time.perf_counter() - start):.2f} ms per 64x64 scene')
