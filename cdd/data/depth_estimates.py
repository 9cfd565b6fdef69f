"""Owns the estimation of depth maps by a model of transformers, with PyTorch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cdd.core import files
from cdd.core.errors import UserError
from cdd.core.words import quoted
from cdd.data import images
from cdd.data.sources import layouts

SUFFIX = '.depth.png'
WHITE = 2**16 - 1


def estimate(folder: Path, estimator: Callable[[Image.Image], np.ndarray]) -> tuple[int, dict]:
  """Writes NAME.depth.png beside every image of a folder that has no depth, as PNGs of 16 bits.

  An image has one if the source `image_folder` finds it: beside it, in a folder of depths, or in
  the metadata.

  Args:
    estimator: a picture in RGB -> how near each pixel is, [h, w], up to scale and shift.

  Returns:
    How many were written; path of an image that was skipped -> why.

  Raises:
    UserError: there is no such folder, or no image in it.
  """
  if not folder.is_dir():
    raise UserError(f'There is no folder {str(folder)!r} (--folder).')
  rows = layouts.listing(folder, also=('depth',), column='')
  if not rows:
    raise UserError(f'There are no images in {str(folder)!r} (--folder).')
  written, skipped, taken = 0, {}, {}
  for row in tqdm(rows, desc='estimating', unit='image', dynamic_ncols=True):
    path = folder / row.name
    target = path.with_name(path.stem + SUFFIX)
    other = taken.setdefault(target, row.name)
    if other != row.name:
      skipped[row.name] = f'its map would be called as that of {quoted(other)}'
      continue
    if 'depth' in row.files:
      continue
    try:
      near = estimator(images.rgb(images.opened(path)))
    except images.Unreadable as error:
      skipped[row.name] = str(error)
      continue
    with files.atomic(target) as new:
      Image.fromarray(levels(near, path)).save(new, 'PNG')
    written += 1
  return written, skipped


def levels(near: np.ndarray, path: Path) -> np.ndarray:
  """uint16 [h, w], the least of a picture at 0 and the greatest at 65535.

  Raises:
    UserError: an estimate is not finite.
  """
  if not np.isfinite(near).all():
    raise UserError(f'The depth that was estimated of {quoted(path)} is not finite.')
  near = near.astype(np.float64)  # The span of two numbers may exceed their type.
  low, high = near.min(), near.max()
  return np.round(WHITE * (near - low) / max(high - low, 1e-12)).astype(np.uint16)


def transformer(model: str) -> Callable[[Image.Image], np.ndarray]:
  """The estimator of DPT, Depth Anything, or what else transformers reads as one.

  A model that estimates distances is inverted.

  Args:
    model: a folder in transformers' layout, or a hub's 'owner/name'.

  Raises:
    UserError: PyTorch and transformers are not installed, or there is no such model.
  """
  try:
    import torch
    import transformers
  except ImportError as error:
    raise UserError("Estimating depth needs pip install 'cdd-jax[depth]'.") from error
  try:
    network = transformers.AutoModelForDepthEstimation.from_pretrained(model).eval()
    # All models of this kind share DPT's; that of Pillow needs no torchvision.
    processor = transformers.DPTImageProcessorPil.from_pretrained(model)
  except (OSError, ValueError) as error:
    reason = quoted(' '.join(str(error).split()), 200)
    raise UserError(f'{model!r} is no model that estimates depth (--model): {reason}.') from error
  metric = getattr(network.config, 'depth_estimation_type', 'relative') == 'metric'

  def run(picture: Image.Image) -> np.ndarray:
    inputs = processor(images=picture, return_tensors='pt')
    with torch.no_grad():
      depth = network(**inputs).predicted_depth[:, None].float()
      size = picture.size[::-1]
      depth = torch.nn.functional.interpolate(depth, size, mode='bicubic', align_corners=False)
    values = depth[0, 0].numpy()
    return 1 / np.maximum(values, 1e-6) if metric else values

  return run
