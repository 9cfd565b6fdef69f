"""Stable Diffusion's networks, as data: the fields of the config.json files that are public.

Each family has the form of `config.prior.new`; `python -m cdd.plan --family=sd21` plans for it.
"""

CROSS_DOWN, CROSS_UP = 'CrossAttnDownBlock2D', 'CrossAttnUpBlock2D'
LEVELS = dict(
  block_out_channels=(320, 640, 1280, 1280),
  down_block_types=(CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, 'DownBlock2D'),
  up_block_types=('UpBlock2D', CROSS_UP, CROSS_UP, CROSS_UP),
)
UNET = dict(
  in_channels=4,
  out_channels=4,
  layers_per_block=2,
  norm_num_groups=32,
  norm_eps=1e-5,
  act_fn='silu',
  flip_sin_to_cos=True,
  freq_shift=0,
)
VAE = dict(
  in_channels=3,
  out_channels=3,
  latent_channels=4,
  block_out_channels=(128, 256, 512, 512),
  down_block_types=('DownEncoderBlock2D',) * 4,
  up_block_types=('UpDecoderBlock2D',) * 4,
  layers_per_block=2,
  norm_num_groups=32,
  act_fn='silu',
)
TEXT = dict(
  vocab_size=49408,
  max_position_embeddings=77,
  layer_norm_eps=1e-5,
  bos_token_id=0,
  eos_token_id=2,  # As published; the pooled state is therefore that of the largest token.
  pad_token_id=1,
)
CLIP_L = dict(
  TEXT,
  hidden_size=768,
  intermediate_size=3072,
  num_hidden_layers=12,
  num_attention_heads=12,
  hidden_act='quick_gelu',
  projection_dim=768,
)
SCHEDULER = dict(
  beta_schedule='scaled_linear',
  beta_start=0.00085,
  beta_end=0.012,
  num_train_timesteps=1000,
  clip_sample=False,
  set_alpha_to_one=False,
  steps_offset=1,
)

# stable-diffusion-v1-5
SD15 = dict(
  unet=dict(UNET, **LEVELS, attention_head_dim=8, cross_attention_dim=768, sample_size=64),
  vae=dict(VAE, sample_size=512, scaling_factor=0.18215),
  text_encoder=CLIP_L,
  scheduler=dict(
    SCHEDULER,
    _class_name='PNDMScheduler',
    prediction_type='epsilon',
    skip_prk_steps=True,
  ),
)

# stable-diffusion-2-1
SD21 = dict(
  unet=dict(
    UNET,
    **LEVELS,
    attention_head_dim=(5, 10, 20, 20),
    cross_attention_dim=1024,
    use_linear_projection=True,
    upcast_attention=True,
    sample_size=96,
  ),
  vae=dict(VAE, sample_size=768, scaling_factor=0.18215),
  text_encoder=dict(
    TEXT,
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act='gelu',
    projection_dim=512,
  ),
  scheduler=dict(SCHEDULER, _class_name='DDIMScheduler', prediction_type='v_prediction'),
)

# stable-diffusion-xl-base-1.0
SDXL = dict(
  unet=dict(
    UNET,
    block_out_channels=(320, 640, 1280),
    down_block_types=('DownBlock2D', CROSS_DOWN, CROSS_DOWN),
    up_block_types=(CROSS_UP, CROSS_UP, 'UpBlock2D'),
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type='text_time',
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
    sample_size=128,
  ),
  vae=dict(VAE, sample_size=1024, scaling_factor=0.13025, force_upcast=True),
  text_encoder=CLIP_L,
  text_encoder_2=dict(
    TEXT,
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act='gelu',
    projection_dim=1280,
  ),
  scheduler=dict(
    SCHEDULER,
    _class_name='EulerDiscreteScheduler',
    prediction_type='epsilon',
    interpolation_type='linear',
    timestep_spacing='leading',
    use_karras_sigmas=False,
  ),
)

FAMILIES = dict(sd15=SD15, sd21=SD21, sdxl=SDXL)
