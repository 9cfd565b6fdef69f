"""A scene in words of a closed vocabulary: every word is true, and some truths are left out."""

from cdd.data.scenes import world

NUMBERS = ('zero', 'one', 'two', 'three', 'four')
NOUNS = {'sphere': ('sphere', 'ball'), 'cube': ('cube', 'block'), 'cylinder': ('cylinder',)}
OPENINGS = ('', '', '', 'a picture of ', 'a scene with ', 'a photo of ')


def article(words):
  return ('an ' if words[0] in 'aeiou' else 'a ') + words


def join(parts):
  """['x', 'y', 'z'] -> 'x, y and z'."""
  return ', '.join(parts[:-1]) + ' and ' + parts[-1] if len(parts) > 1 else parts[0]


def name(thing, told, noun=None):
  """A thing's words; `told` names the attributes to tell."""
  size = thing.size if 'size' in told and thing.size != 'medium' else ''
  material = thing.material if 'material' in told else ''
  color = thing.color if 'color' in told else ''
  texture = thing.texture if 'texture' in told and thing.texture != 'plain' else ''
  words = (size, material, color, texture, noun or thing.shape)
  return ' '.join(word for word in words if word)


def floor(item, told):
  if item.texture == 'wooden':
    return 'wooden floor' if 'texture' in told else 'floor'
  texture = item.texture if 'texture' in told and item.texture != 'plain' else ''
  color = item.colors[0] if 'color' in told else ''
  if color and texture:
    color = ' and '.join(item.colors)
  elif item.texture != 'plain':
    color = ''
  return ' '.join(word for word in (color, texture, 'floor') if word)


def backdrop(item, told):
  if item.kind == 'wall':
    return 'in front of ' + article(f'{item.color} wall' if 'color' in told else 'wall')
  return 'under ' + article(item.kind if 'color' in told else 'sky')


def caption(scene, rng, detail):
  """Words for a scene; `detail` is the probability that an attribute is told. Shapes always are."""

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
  told = keep('floor', 'backdrop', 'texture', 'color', 'sky')
  if 'floor' in told:
    text += ' on ' + article(floor(scene.floor, told))
  if 'backdrop' in told:
    text += ' ' + backdrop(scene.backdrop, {'color'} if 'sky' in told else set())
  return text


# Every word (and the comma) a caption or an instruction may hold.
VOCABULARY = tuple(
  sorted(
    {word for nouns in NOUNS.values() for noun in nouns for word in (noun, noun + 's')}
    | {*world.COLORS, *world.MATERIALS, *world.TEXTURES, *world.FLOORS, 'small', 'large'}
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
