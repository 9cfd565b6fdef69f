"""Owns the fields of a prior of a few thousand parameters, of which nothing need be known."""

UNET = dict(
  block_out_channels=(8, 16),
  down_block_types=('DownBlock2D', 'DownBlock2D'),  # The middle block attends to the text.
  up_block_types=('UpBlock2D', 'UpBlock2D'),
  layers_per_block=1,
  cross_attention_dim=16,
  attention_head_dim=2,
  norm_num_groups=4,
  sample_size=16,
)
VAE = dict(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=1.0)
TEXT = dict(
  hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=600
)
SCHEDULER = dict(
  _class_name='DDIMScheduler',
  beta_schedule='scaled_linear',
  beta_start=0.00085,
  beta_end=0.012,
  num_train_timesteps=1000,
  prediction_type='v_prediction',
  rescale_betas_zero_snr=True,
)
