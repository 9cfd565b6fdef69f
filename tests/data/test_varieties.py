"""What scenes are made of: `simple` leaves out what a small model does not learn."""

import numpy as np
import pytest

from cdd.core.errors import UserError
from cdd.data.scenes import Scenes, edits, world
from cdd.data.sources import scenes

SIMPLE = Scenes(size=1, seed=2, variety='simple', edits=True)


def made_of(scene):
  """Kind -> the choices that are in a scene."""
  things = {
    kind: {getattr(thing, kind) for thing in scene.things} for kind in ('material', 'texture')
  }
  return dict(
    counts={len(scene.things)},
    materials=things['material'],
    textures=things['texture'],
    floors={scene.floor.texture},
  )


def drawn(source, count):
  """The scenes of the first indices, and what one edit makes of each."""
  for index in range(count):
    scene, rng = source.scene(index)
    yield scene
    yield edits.edit(scene, rng)[0]


@pytest.mark.parametrize('name', world.VARIETIES)
def test_scenes_and_their_edits_hold_every_choice_of_their_variety_and_no_other(name):
  seen = {}
  for scene in drawn(Scenes(seed=2, variety=name), 300):
    for kind, found in made_of(scene).items():
      seen.setdefault(kind, set()).update(found)
  variety = world.VARIETIES[name]
  assert seen == {kind: {*choices} for kind, choices in variety._asdict().items()}


@pytest.mark.parametrize('name', world.VARIETIES)
def test_choices_are_as_frequent_as_their_probabilities_say(name):
  variety, rng, count = world.VARIETIES[name], np.random.default_rng(0), 4000
  for kind, choices in variety._asdict().items():
    assert sum(choices.values()) == pytest.approx(1), kind
    found = [world.pick(rng, choices) for _ in range(count)]
    for choice, weight in choices.items():
      spread = np.sqrt(weight * (1 - weight) / count)
      assert abs(found.count(choice) / count - weight) < 4 * spread, (kind, choice)


def test_instructions_of_simple_scenes_ask_for_nothing_that_was_left_out():
  words = ' '.join(SIMPLE[index]['instruction'] for index in range(300)).split()
  assert not {'dotted', 'metal', 'wooden'} & {*words} and {'shiny', 'matte', 'striped'} <= {*words}


def test_an_unknown_variety_is_named_with_the_choices():
  with pytest.raises(UserError, match=r"variety is 'plain'; choose one of \['all', 'simple'\]"):
    scenes(size=8, variety='plain')
