import jax.numpy as jnp
import numpy as np
import optax

from cdd.training.optimizer import adamw, muon

RATE = 0.01
SETTINGS = dict(steps=10, learning_rate=RATE, decay='constant', clip=0.0)


def gradients():
  rng = np.random.default_rng(0)
  shapes = {'conv.kernel': (3, 3, 4, 8), 'linear.kernel': (6, 20), 'conv.bias': (8,), 'mu': (4,)}
  return {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in shapes.items()}


def first_update(make, **settings):
  grads = gradients()
  optimizer = make(**SETTINGS, **settings)
  return optimizer.update(grads, optimizer.init(grads), grads)[0]


def test_muon_moves_a_kernel_along_the_orthogonal_factor_of_its_gradient():
  updates = first_update(muon)
  for path, grad in gradients().items():
    if not path.endswith('kernel'):
      continue
    matrix = np.asarray(grad).reshape(-1, grad.shape[-1])
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    step = np.asarray(updates[path]).reshape(matrix.shape)
    assert -(step * (u @ v)).sum() / np.linalg.norm(step) / np.linalg.norm(u @ v) > 0.97
    sizes = np.linalg.svd(step, compute_uv=False) / (0.2 * RATE * np.sqrt(max(matrix.shape)))
    assert sizes.min() > 0.6 and sizes.max() < 1.3


def test_muon_leaves_vectors_to_adam():
  grads = gradients()
  adam = optax.adam(RATE, b1=0.9, b2=0.99, nesterov=True)
  updates, (others, _) = first_update(muon), adam.update(grads, adam.init(grads), grads)
  for path in ('conv.bias', 'mu'):
    np.testing.assert_allclose(updates[path], others[path], rtol=1e-5)


def test_a_multiplier_scales_the_updates_of_the_paths_it_matches():
  for make in (adamw, muon):
    plain = first_update(make)
    scaled = first_update(make, multipliers=(('mu', 20.0), ('conv.*', 0.5)))
    for path, factor in {'mu': 20, 'conv.kernel': 0.5, 'linear.kernel': 1}.items():
      np.testing.assert_allclose(scaled[path], factor * np.asarray(plain[path]), rtol=1e-6)


def test_clipping_is_by_the_global_norm():
  grads = gradients()
  norm = float(optax.global_norm(grads))
  optimizer = adamw(**dict(SETTINGS, clip=norm / 4), b1=0.0, b2=0.0)
  state = optimizer.init(grads)
  _, state = optimizer.update(grads, state, grads)
  np.testing.assert_allclose(state[1].mu['mu'], grads['mu'] / 4, rtol=1e-6)
