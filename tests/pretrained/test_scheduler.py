"""scheduler_config.json: the noise is the reference's, and what is not followed is refused."""

import json
import shutil
import warnings

import diffusers as reference
import numpy as np
import pytest
import tiny

from cdd.core.errors import UserError
from cdd.diffusion import schedules
from cdd.pretrained import scheduler


@pytest.mark.parametrize(
  'fields',
  [
    dict(trained_betas=np.linspace(0.001, 0.03, 20).tolist()),
    dict(beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012),
    dict(beta_schedule='squaredcos_cap_v2', num_train_timesteps=100),
    dict(beta_schedule='linear', rescale_betas_zero_snr=True, prediction_type='v_prediction'),
    dict(
      trained_betas=np.linspace(0.001, 0.03, 20).tolist(),
      rescale_betas_zero_snr=True,
      prediction_type='v_prediction',
    ),
  ],
)
def test_the_noise_is_that_of_the_folder(fields, tmp_path):
  theirs = reference.DDIMScheduler(steps_offset=1, set_alpha_to_one=False, **fields)
  theirs.save_pretrained(tmp_path / 'scheduler')
  schedule = schedules.from_diffusers(scheduler.read(tmp_path / 'scheduler'))
  expected = theirs.alphas_cumprod.double().sqrt().numpy()
  np.testing.assert_allclose(np.asarray(schedule.table.alpha)[1:], expected, atol=2e-6)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (dict(prediction_type='flow'), "'flow'.*v_prediction"),
    (dict(beta_schedule='sigmoid'), "'sigmoid'.*scaled_linear"),
    (dict(thresholding=True), 'thresholding'),
    (dict(rescale_betas_zero_snr=True), 'is epsilon and rescale_betas_zero_snr is true'),
    (dict(timestep_spacing='even'), "'even'.*trailing"),
    (dict(variance_type='learned_range'), 'learned_range'),
    (dict(_class_name='EDMEulerScheduler'), 'EDMEulerScheduler'),
    (dict(_class_name='FlowMatchEulerDiscreteScheduler'), 'FlowMatchEuler'),
  ],
)
def test_a_scheduler_that_is_not_followed_is_refused_by_name(fields, message, tmp_path):
  (tmp_path / 'scheduler').mkdir()
  (tmp_path / 'scheduler' / 'scheduler_config.json').write_text(json.dumps(fields))
  with pytest.raises(UserError, match=f'scheduler_config.json: .*{message}'):
    scheduler.read(tmp_path / 'scheduler')


def test_a_converted_run_is_loaded_without_a_warning_and_sampled_at_the_same_times(prior, tmp_path):
  def times_and_warnings(fields):
    folder = shutil.copytree(prior, tmp_path / str(len(fields)))
    (folder / 'scheduler' / 'scheduler_config.json').write_text(json.dumps(fields))
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter('always')
      pipeline = reference.DiffusionPipeline.from_pretrained(folder)
    pipeline.scheduler.set_timesteps(4)
    said = [w for w in caught if 'steps_offset' in str(w.message)]
    return pipeline.scheduler.timesteps.tolist(), len(said)

  fields = scheduler.of_run(tiny.SCHEDULER)
  ours, none = times_and_warnings(fields)
  del fields['steps_offset']
  theirs, some = times_and_warnings(fields)
  assert (none, some) == (0, 1) and ours == theirs == [999, 749, 499, 249]
