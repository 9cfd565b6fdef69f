"""Tasks: name -> a factory, keyword settings -> `Task`."""

from cdd.data.tasks.depth import depth
from cdd.data.tasks.super_resolution import super_resolution
from cdd.data.tasks.text_to_image import text_to_image

TASKS = dict(depth=depth, super_resolution=super_resolution, text_to_image=text_to_image)
