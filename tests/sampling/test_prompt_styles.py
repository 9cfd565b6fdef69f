"""Images of long and weighted prompts: the reference's pipelines, given the states that we mean."""

import math

import diffusers as reference
import numpy as np
import pytest
import torch
from torch_pipelines import LENGTH, SCALE, STEPS, folder_of, noise, parts, same

from cdd import sampling
from cdd.core.errors import UserError
from cdd.models.text import weighted

LONG = (
  'a red ball on a white floor in front of a blue box and a green cone at the left of the table'
)
WEIGHTED = '(a red ball:1.4) on [a white floor]'
# The parts that these weights stand for, by hand.
PARTS = {
  WEIGHTED: [('a red ball', 1.4), (' on ', 1.0), ('a white floor', 1 / 1.1)],
  f'(dark:0.5) {LONG}': [('dark', 0.5), (f' {LONG}', 1.0)],
}
KINDS = dict(sd=reference.StableDiffusionPipeline, sdxl=reference.StableDiffusionXLPipeline)


def encoded(tokenizer, encoder, prompt, count, penultimate):
  """(states of `count` chunks one after the other, pooled state of the first), by transformers."""
  pairs = []
  for words, weight in PARTS.get(prompt, [(prompt, 1.0)]):
    pairs += [(token, weight) for token in tokenizer(words, add_special_tokens=False).input_ids]
  states, pooled = [], None
  for start in range(0, count * (LENGTH - 2), LENGTH - 2):
    chunk = pairs[start : start + LENGTH - 2]
    empty = LENGTH - 2 - len(chunk)
    ids = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
    weights = torch.tensor([1.0, *(weight for _, weight in chunk)] + [1.0] * (empty + 1))
    with torch.no_grad():
      out = encoder(
        torch.tensor([ids + [tokenizer.pad_token_id] * empty]), output_hidden_states=True
      )
    z = out.hidden_states[-2] if penultimate else out.last_hidden_state
    mean = z.mean()
    z = z * weights[None, :, None]
    states.append(z * (mean / z.mean()))
    if pooled is None:
      pooled = out.text_embeds if 'text_embeds' in out else out.pooler_output
  return torch.cat(states, 1), pooled


def chunks(tokenizer, texts):
  """How many chunks the longest text fills."""
  plain = [''.join(words for words, _ in PARTS.get(text, [(text, 1)])) for text in texts]
  return max(math.ceil((len(tokenizer(text).input_ids) - 2) / (LENGTH - 2)) for text in plain)


def embeddings(made, texts, count):
  """What a pipeline takes in place of prompts."""
  double = 'text_encoder_2' in made
  ends = ('', '_2') if double else ('',)
  rows, pooled = [], []
  for text in texts:
    both = [
      encoded(made[f'tokenizer{end}'], made[f'text_encoder{end}'], text, count, double)
      for end in ends
    ]
    rows.append(torch.cat([states for states, _ in both], -1))
    pooled.append(both[-1][1])
  out = dict(prompt_embeds=torch.cat(rows))
  return out | (dict(pooled_prompt_embeds=torch.cat(pooled)) if double else {})


def their_images(made, folder, latents, texts, negative, count):
  kind = KINDS['sdxl' if 'text_encoder_2' in made else 'sd']
  given = embeddings(made, texts, count)
  away = embeddings(made, negative, count)
  given |= {f'negative_{name}': value for name, value in away.items()}
  pipeline = kind.from_pretrained(folder)
  pipeline.set_progress_bar_config(disable=True)
  return pipeline(
    **given,
    num_inference_steps=STEPS,
    latents=torch.tensor(latents.transpose(0, 3, 1, 2)),
    output_type='np',
    guidance_scale=SCALE,
  ).images


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
  ('texts', 'negative', 'settings'),
  [
    ([LONG, 'dusk'], ['blurry'] * 2, dict(long_prompts=True)),
    ([WEIGHTED, 'dusk'], ['blurry'] * 2, dict(weighted_prompts=True)),
    (
      ['dusk', WEIGHTED],
      [f'(dark:0.5) {LONG}'] * 2,
      dict(long_prompts=True, weighted_prompts=True),
    ),
  ],
  ids=['long', 'weighted', 'both'],
)
def test_our_image_is_the_pipelines_of_the_same_states(kind, texts, negative, settings, tmp_path):
  made, latents = parts(tmp_path, kind), noise()
  count = chunks(made['tokenizer'], texts + negative) if 'long_prompts' in settings else 1
  assert count == (5 if 'long_prompts' in settings else 1)
  folder = folder_of(made, tmp_path)
  theirs = their_images(made, folder, latents, texts, negative, count)
  model = sampling.load(folder)
  how = dict(negative=negative, latents=latents, steps=STEPS, guidance=SCALE)
  ours = model(texts, **how, **settings)
  same(ours, theirs, model(texts, **how))


def test_without_the_options_and_for_plain_prompts_with_them_nothing_changes(plain, caplog):
  draw = lambda text, **given: plain(text, negative='x', guidance=2.0, steps=2, **given)
  one = draw('a red ball')
  programs = plain.draw._cache_size()
  np.testing.assert_array_equal(one, draw('a red ball', long_prompts=True))
  assert plain.draw._cache_size() == programs and not caplog.records
  np.testing.assert_allclose(one, draw('a red ball', weighted_prompts=True), atol=1e-5)
  brackets = draw('a (red) ball')
  assert np.abs(brackets - draw('a (red) ball', weighted_prompts=True)).max() > 1e-4


def test_the_end_that_is_left_out_and_what_would_read_it_are_named(plain, caplog):
  plain(LONG, steps=1)
  plain(f'(a:1.2) {LONG}', steps=1, weighted_prompts=True)
  plain(LONG, steps=1, long_prompts=True)
  first, second = [record.getMessage() for record in caplog.records]
  for message in (first, second):
    assert 'left out (--long_prompts reads all of it): ' in message
    assert message.endswith("of the table'.")


@pytest.mark.parametrize('name', ['long_prompts', 'weighted_prompts'])
def test_an_option_that_is_no_truth_value_is_refused(name, plain):
  with pytest.raises(UserError, match=f'{name} is 1; it must be True or False'):
    plain('a', **{name: 1})


def test_a_mean_that_is_zero_is_not_restored():
  states = np.array([[[1.0, -1.0], [3.0, -3.0]]], np.float32)
  weights = np.array([[1.0, 2.0]], np.float32)
  expected = states * weights[..., None]
  np.testing.assert_array_equal(weighted(states, weights), expected)
  moved = np.asarray(weighted(states + 0.5, weights))
  np.testing.assert_allclose(moved.mean(), 0.5, rtol=1e-6)
  expected = (states + 0.5) * weights[..., None]
  np.testing.assert_allclose(moved, expected * (0.5 / expected.mean()), rtol=1e-6)
