"""The text encoders' results beside those of transformers."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_peers as peers
import transformers

from cdd.models import components, functional
from cdd.pretrained import diffusers

FIELDS = dict(
  vocab_size=50,
  hidden_size=24,
  intermediate_size=48,
  num_hidden_layers=3,
  num_attention_heads=4,
  max_position_embeddings=10,
  projection_dim=14,
)
# 47 begins, 48 ends and fills; in the second row a larger token stands behind the first end.
TOKENS = np.array(
  [[47, 3, 9, 48, 48, 48, 48, 48, 48, 48], [47, 5, 48, 49, 7, 1, 48, 48, 48, 48]], np.int32
)
KINDS = dict(
  text_encoder=transformers.CLIPTextModel,
  text_encoder_2=transformers.CLIPTextModelWithProjection,
)


@pytest.mark.parametrize('eos', [2, 48])
@pytest.mark.parametrize('component', KINDS)
def test_every_state_equals_that_of_transformers(eos, component, tmp_path):
  """eos 2, of old files: the pooled state is that of the largest token, else of the first end."""
  torch.manual_seed(0)
  config = transformers.CLIPTextConfig(**FIELDS, bos_token_id=47, eos_token_id=eos)
  theirs = peers.shaken(KINDS[component](config))
  theirs.save_pretrained(tmp_path / component)
  loaded = diffusers.load(tmp_path)
  apply, _ = functional.abstract(lambda: components.make(component, loaded.configs[component]))
  tree = {path.removeprefix(f'{component}.'): leaf for path, leaf in loaded.params.items()}
  out = apply(tree, '__call__', jnp.asarray(TOKENS))
  with torch.no_grad():
    expected = theirs(torch.tensor(TOKENS, dtype=torch.long), output_hidden_states=True)
  pairs = dict(
    last=expected.last_hidden_state,
    penultimate=expected.hidden_states[-2],
    pooled=expected.pooler_output if component == 'text_encoder' else expected.text_embeds,
  )
  for name, states in pairs.items():
    states = states.numpy()
    error = np.abs(getattr(out, name) - states).max() / np.abs(states).max()
    assert error < 1e-5, (name, error)
  if component == 'text_encoder':
    at = np.array([3, 3 if eos == 2 else 2])
    np.testing.assert_array_equal(out.pooled, out.last[np.arange(2), at])
