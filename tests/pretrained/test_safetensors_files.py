"""Files of tensors as they come: every type, broken headers, and values that are refused."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import torch_peers as peers
from safetensors.numpy import load_file, save_file

from cdd.core.errors import UserError
from cdd.pretrained import diffusers, tensors

FILE = peers.WEIGHTS


@pytest.mark.parametrize('name', ['float64', 'float32', 'float16', 'bfloat16', 'int64', 'uint8'])
def test_a_tensor_is_read_as_the_library_wrote_it(name, tmp_path):
  written = {'a.b': torch.arange(6).reshape(2, 3), 'mu': torch.tensor(2), 'none': torch.zeros(0, 3)}
  written = {key: tensor.to(getattr(torch, name)) for key, tensor in written.items()}
  safetensors.torch.save_file(written, tmp_path / 'x', metadata=dict(format='pt'))
  stored = tensors.read(tmp_path / 'x')
  assert stored.keys() == written.keys()
  for key, tensor in written.items():
    array = np.asarray(stored[key])
    assert array.dtype == name and array.shape == tuple(tensor.shape)
    np.testing.assert_array_equal(array.astype(float), tensor.double().numpy())


@pytest.mark.parametrize('dtype', [None, np.float16, ml_dtypes.bfloat16])
def test_a_tensor_is_written_as_the_library_reads_it(dtype, tmp_path):
  made = {'half': np.array([1.5, 2], np.float16), 'mu': np.array(0.25, np.float32)}
  made['turned'] = np.arange(6, dtype=np.float32).reshape(2, 3).T
  tensors.write(tmp_path / 'x', made, dtype)
  with safetensors.safe_open(tmp_path / 'x', 'pt') as file:
    assert file.metadata() == dict(format='pt')
  for key, tensor in safetensors.torch.load_file(tmp_path / 'x').items():
    assert str(tensor.dtype) == f'torch.{np.dtype(dtype or made[key].dtype)}'
    np.testing.assert_array_equal(tensor.double().numpy(), made[key].astype(float))


@pytest.mark.parametrize('kind', [np.float16, np.float32, np.float64])
@pytest.mark.parametrize('axes', [(0,), (1, 0), (2, 3, 1, 0)])
def test_a_tensor_is_laid_out_block_by_block(axes, kind, monkeypatch, tmp_path):
  monkeypatch.setattr(tensors, 'BLOCK', 2000)
  sizes = (71, 5, 3, 4)[: len(axes)]  # 71 rows are neither whole blocks nor whole lines.
  array = np.random.default_rng(0).normal(size=sizes).astype(kind)
  save_file(dict(a=array), tmp_path / 'x')
  stored = tensors.read(tmp_path / 'x')['a']
  expected = np.ascontiguousarray(array.transpose(axes).astype(np.float32))
  for tensor in (stored, array):
    got = tensors.arranged(tensor, axes, np.float32, 'x')
    assert got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_array_equal(got, expected)
  array.flat[[0, -1]] = np.inf, np.nan
  with pytest.raises(UserError, match='x: a has 2 values that are not finite in float32'):
    tensors.arranged(array, axes, np.float32, 'x: a')


def with_header(header, data=b'\0' * 16, length=None) -> bytes:
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack('<Q', len(text) if length is None else length) + text + data


def entry(begin, end, shape=(2,), dtype='F32'):
  return dict(dtype=dtype, shape=list(shape), data_offsets=[begin, end])


HOSTILE = dict(
  empty=(b'', 'a header of 0 bytes in a file of 0'),
  beyond_the_file=(with_header({}, length=1000), 'a header of 1000 bytes in a file of 26'),
  ten_gigabytes=(with_header({}, length=10**10), 'a header of 10000000000 bytes'),
  no_json=(with_header(b'{"a": '), 'Expecting value'),
  no_object=(with_header([1]), 'no JSON object'),
  too_deep=(with_header(b'[' * 200000), 'recursion'),
  overlapping=(with_header(dict(a=entry(0, 8), b=entry(4, 12))), 'b overlaps'),
  the_same_place=(with_header(dict(a=entry(0, 8), b=entry(0, 8))), 'b overlaps'),
  gap=(with_header(dict(a=entry(0, 4, (1,)), b=entry(8, 16))), 'b leaves a gap'),
  too_long=(with_header(dict(a=entry(0, 8), b=entry(8, 24, (4,)))), 'b ends at byte'),
  left_over=(with_header(dict(a=entry(0, 8))), '8 bytes follow'),
  huge=(with_header(dict(a=entry(0, 2**70, (2**68,)))), 'a ends at byte'),
  overflowing=(with_header(dict(a=entry(0, 16, (2**32, 2**32)))), r'a is F32\[4294967296, 429'),
  negative=(with_header(dict(a=entry(0, 8, (-2, -1)))), 'describes a as'),
  fractional=(with_header(dict(a=entry(0, 8.0))), 'describes a as'),
  backwards=(with_header(dict(a=entry(8, 0))), 'a is F32'),
  no_offsets=(with_header(dict(a=dict(dtype='F32', shape=[2]))), 'describes a as'),
  unknown_dtype=(with_header(dict(a=entry(0, 16, (16,), 'F8_E4M3'))), "a has dtype 'F8_E4M3'"),
)


@pytest.mark.parametrize('kind', HOSTILE)
def test_a_hostile_file_is_an_error_that_names_it(kind, folder):
  data, message = HOSTILE[kind]
  (folder / 'vae' / FILE).write_bytes(data)
  with pytest.raises(UserError, match=f'vae/{FILE}.*{message}'):
    diffusers.load(folder)


def test_a_file_that_shrinks_while_it_is_read_names_the_tensor(folder):
  path = folder / 'vae' / FILE
  last = max(tensors.read(path).values(), key=lambda tensor: tensor.offset)
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(UserError, match=f'{FILE} cannot be read: it ends within {last.key}'):
    np.asarray(last)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_tensor_that_is_not_finite_is_named(value, folder):
  tree = load_file(folder / 'vae' / FILE)
  tree['encoder.conv_in.bias'][1:3] = value
  save_file(tree, folder / 'vae' / FILE)
  with pytest.raises(UserError, match=f'{FILE}: encoder.conv_in.bias has 2 values that are not'):
    diffusers.load(folder)


def test_an_integer_tensor_is_refused(folder):
  tree = load_file(folder / 'vae' / FILE)
  tree['encoder.conv_in.bias'] = tree['encoder.conv_in.bias'].astype(np.int8)
  save_file(tree, folder / 'vae' / FILE)
  with pytest.raises(UserError, match='encoder.conv_in.bias is int8, not floating'):
    diffusers.load(folder)
