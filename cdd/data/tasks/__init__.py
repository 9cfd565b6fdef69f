"""Tasks: name -> a factory, keyword settings -> `Task`."""

from cdd.data.tasks.canny import canny
from cdd.data.tasks.depth import depth
from cdd.data.tasks.inpaint import inpaint
from cdd.data.tasks.instruct_edit import instruct_edit
from cdd.data.tasks.paired import paired
from cdd.data.tasks.super_resolution import super_resolution
from cdd.data.tasks.text_to_image import text_to_image

TASKS = dict(
  canny=canny,
  depth=depth,
  inpaint=inpaint,
  instruct_edit=instruct_edit,
  paired=paired,
  super_resolution=super_resolution,
  text_to_image=text_to_image,
)
