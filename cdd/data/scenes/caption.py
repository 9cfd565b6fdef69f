"""A scene in words of a closed vocabulary: every word is true, and some truths are left out."""

from cdd.data.scenes import world

NUMBERS = ('zero', 'one', 'two', 'three', 'four')
NOUNS = {'sphere': ('sphere', 'ball'), 'cube': ('cube', 'block'), 'cylinder': ('cylinder',)}
ALL = world.VARIETIES['all']
OPENINGS = ('', '', '', 'a picture of ', 'a scene with ', 'a photo of ')


def article(words):
  return ('an ' if words[0] in 'aeiou' else 'a ') + words


def join(parts):
  """['x', 'y', 'z'] -> 'x, y and z'."""
  return ', '.join(parts[:-1]) + ' and ' + parts[-1] if len(parts) > 1 else parts[0]


def name(thing, mentioned, noun=None):
  """A thing's words; `mentioned` names the attributes to mention."""
  size = thing.size if 'size' in mentioned and thing.size != 'medium' else ''
  material = thing.material if 'material' in mentioned else ''
  color = thing.color if 'color' in mentioned else ''
  texture = thing.texture if 'texture' in mentioned and thing.texture != 'plain' else ''
  words = (size, material, color, texture, noun or thing.shape)
  return ' '.join(word for word in words if word)


def floor(item, mentioned):
  if item.texture == 'wooden':
    return 'wooden floor' if 'texture' in mentioned else 'floor'
  texture = item.texture if 'texture' in mentioned and item.texture != 'plain' else ''
  color = item.colors[0] if 'color' in mentioned else ''
  if color and texture:
    color = ' and '.join(item.colors)
  elif item.texture != 'plain':
    color = ''
  return ' '.join(word for word in (color, texture, 'floor') if word)


def backdrop(item, mentioned):
  if item.kind == 'wall':
    return 'in front of ' + article(f'{item.color} wall' if 'color' in mentioned else 'wall')
  return 'under ' + article(item.kind if 'color' in mentioned else 'sky')


def caption(scene, rng, detail):
  """Words for a scene; every attribute but the shape is mentioned with probability `detail`."""

  def keep(*names):
    return {word for word in names if rng.random() < detail}

  names = []
  for thing in scene.things:
    noun = NOUNS[thing.shape][rng.integers(len(NOUNS[thing.shape]))]
    names.append(name(thing, keep('size', 'material', 'color', 'texture'), noun))
  names = [names[k] for k in rng.permutation(len(names))]
  words = []
  for one in dict.fromkeys(names):
    count = names.count(one)
    words.append(article(one) if count == 1 else f'{NUMBERS[count]} {one}s')
  text = OPENINGS[rng.integers(len(OPENINGS))] + join(words)
  mentioned = keep('floor', 'backdrop', 'texture', 'color', 'sky')
  if 'floor' in mentioned:
    text += ' on ' + article(floor(scene.floor, mentioned))
  if 'backdrop' in mentioned:
    text += ' ' + backdrop(scene.backdrop, {'color'} if 'sky' in mentioned else set())
  return text


# Every word (and the comma) a caption or an instruction may hold.
VOCABULARY = tuple(
  sorted(
    {word for nouns in NOUNS.values() for noun in nouns for word in (noun, noun + 's')}
    | {*world.COLORS, *ALL.materials, *ALL.textures, *ALL.floors, 'small', 'large'}
    | {',', 'a', 'an', 'the', 'and', 'of', 'with', 'on', 'in', 'under', 'to', 'into', 'out', 'away'}
    | {'picture', 'photo', 'scene', 'floor', 'front', 'wall', 'sky', 'sunset', *NUMBERS[2:]}
    | {
      'add',
      'put',
      'make',
      'paint',
      'turn',
      'change',
      'replace',
      'remove',
      'take',
      'bigger',
      'smaller',
    }
  )
)
