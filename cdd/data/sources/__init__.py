"""Sources: name -> a factory, (needs, keyword settings) -> a random-access source of examples.

A source has `len(source)` and `source[i]`. `needs` names the arrays that the task reads of an
example (`Task.needs`); a factory reads these, and refuses with a UserError what it does not have.

An example is a dict of aligned arrays (`image` float32 [h, w, 3] in [0, 1], and any of `depth`,
`mask`, `edited_image`, ...) with its `caption`.
"""

from cdd.data.sources.array_record import array_record
from cdd.data.sources.image_folder import image_folder
from cdd.data.sources.instruct_pix2pix import instruct_pix2pix
from cdd.data.sources.mixture import mixture
from cdd.data.sources.parquet import parquet
from cdd.data.sources.photos import photos
from cdd.data.sources.prepared import prepared
from cdd.data.sources.scenes import scenes
from cdd.data.sources.tfds import tfds
from cdd.data.sources.webdataset import webdataset

SOURCES = dict(
  array_record=array_record,
  image_folder=image_folder,
  instruct_pix2pix=instruct_pix2pix,
  mixture=mixture,
  parquet=parquet,
  photos=photos,
  prepared=prepared,
  scenes=scenes,
  tfds=tfds,
  webdataset=webdataset,
)
