"""Edits: a scene with one thing changed, the instruction that asks for it, and the new caption.

Camera, light and everything else stay as they were, so only the edited thing's pixels and those it
shades differ between the two renders. Each kind of edit is `(scene, rng) -> (scene, instruction)`,
or None where the scene has no room for it.
"""

from cdd.data.scenes import caption, world


def edit(scene, rng, detail=1.0):
  """A random edit -> (edited scene, instruction, caption of the edited scene)."""
  kinds = list(EDITS)
  for at in rng.permutation(len(kinds)):
    result = EDITS[kinds[at]](scene, rng)
    if result:
      edited, instruction = result
      return edited, instruction, caption.caption(edited, rng, detail)
  raise ValueError(f'No edit applies to {scene}')


def choose(scene, rng):
  """A thing to edit: its index, itself, and words that mean it alone."""
  at = int(rng.integers(len(scene.things)))
  thing = scene.things[at]
  alone = sum(other.shape == thing.shape for other in scene.things) == 1
  mentioned = () if alone and rng.random() < 0.4 else ('color',)
  noun = world.pick(rng, caption.NOUNS[thing.shape])
  return at, thing, 'the ' + caption.name(thing, mentioned, noun)


def swap(scene, at, thing):
  return scene._replace(things=scene.things[:at] + (thing,) + scene.things[at + 1 :])


def others(scene, at):
  return scene.things[:at] + scene.things[at + 1 :]


def recolor(scene, rng):
  at, thing, it = choose(scene, rng)
  free = world.free_colors(thing.shape, scene.floor, scene.backdrop, scene.things)
  color = world.pick(rng, [name for name in free if name != thing.color])
  verb, to = world.pick(rng, (('make', ''), ('paint', ''), ('turn', ''), ('change', 'to ')))
  return swap(scene, at, thing._replace(color=color)), f'{verb} {it} {to}{color}'


def remove(scene, rng):
  if len(scene.things) < 2:
    return None
  at, _, it = choose(scene, rng)
  return scene._replace(things=others(scene, at)), world.pick(rng, ('remove ', 'take away ')) + it


def add(scene, rng):
  where = scene.camera, scene.floor, scene.backdrop, scene.things
  thing = world.place(rng, *where, scene.variety)
  if not thing or len(scene.things) >= max(scene.variety.counts):
    return None
  words = caption.name(thing, ('size', 'material', 'color', 'texture'))
  verb = world.pick(rng, ('add ', 'put in '))
  return scene._replace(things=scene.things + (thing,)), verb + caption.article(words)


def resize(scene, rng):
  at, thing, it = choose(scene, rng)
  sizes = list(world.SIZES)
  step = 1 if thing.size == 'small' or (thing.size == 'medium' and rng.random() < 0.5) else -1
  size = sizes[sizes.index(thing.size) + step]
  ratio = world.SIZES[size] / world.SIZES[thing.size]
  thing = thing._replace(size=size, half=tuple(half * ratio for half in thing.half))
  if not world.fits(thing, scene.camera, others(scene, at)):
    return None
  return swap(scene, at, thing), f'make {it} ' + ('bigger' if step > 0 else 'smaller')


def rematerial(scene, rng):
  at, thing, it = choose(scene, rng)
  dullest, *_, brightest = scene.variety.materials
  material = dullest if thing.material == brightest else brightest
  words = 'out of metal' if material == 'metal' else material
  return swap(scene, at, thing._replace(material=material)), f'make {it} {words}'


def retexture(scene, rng):
  at, thing, it = choose(scene, rng)
  texture = world.pick(rng, [name for name in scene.variety.textures if name != thing.texture])
  return swap(scene, at, thing._replace(texture=texture)), f'make {it} {texture}'


def reshape(scene, rng):
  at, thing, it = choose(scene, rng)
  rest = others(scene, at)
  taken = {other.shape for other in rest if other.color == thing.color} | {thing.shape}
  shapes = [shape for shape in world.SHAPES if shape not in taken]
  if not shapes:
    return None
  shape = world.pick(rng, shapes)
  thing = thing._replace(shape=shape, half=world.extents(shape, world.SIZES[thing.size]))
  if not world.fits(thing, scene.camera, rest):
    return None
  verb, to = world.pick(rng, (('turn', 'into'), ('replace', 'with')))
  return swap(scene, at, thing), f'{verb} {it} {to} {caption.article(shape)}'


def refloor(scene, rng):
  used = {thing.color for thing in scene.things}
  old = scene.floor
  for _ in range(world.TRIES):
    new = world.sample_floor(rng, scene.variety)
    if (new.texture, new.colors) != (old.texture, old.colors) and not used & set(new.colors):
      words = caption.article(caption.floor(new, ('texture', 'color')))
      verb, to = world.pick(rng, (('turn', 'into'), ('change', 'to'), ('replace', 'with')))
      return scene._replace(floor=new), f'{verb} the floor {to} {words}'
  return None


def rebackdrop(scene, rng):
  used = {thing.color for thing in scene.things}
  old = scene.backdrop
  new = world.sample_backdrop(rng, scene.floor)
  new = new._replace(distance=old.distance, yaw=old.yaw)
  if new.kind == 'wall' and (new.color in used or (old.kind == 'wall' and new.color == old.color)):
    return None
  if new.kind != 'wall' and new.kind == old.kind:
    return None
  if new.kind == old.kind:
    return scene._replace(backdrop=new), f'paint the wall {new.color}'
  what = 'wall' if old.kind == 'wall' else 'sky'
  words = f'{new.color} wall' if new.kind == 'wall' else new.kind
  verb, to = world.pick(rng, (('change', 'to'), ('replace', 'with')))
  return scene._replace(backdrop=new), f'{verb} the {what} {to} {caption.article(words)}'


EDITS = {
  'recolor': recolor,
  'remove': remove,
  'add': add,
  'resize': resize,
  'rematerial': rematerial,
  'retexture': retexture,
  'reshape': reshape,
  'refloor': refloor,
  'rebackdrop': rebackdrop,
}
