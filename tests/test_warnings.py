import pytest

WARNS = compile("import warnings\nwarnings.warn('old', DeprecationWarning)", 'warns.py', 'exec')


@pytest.mark.parametrize('module', ['cdd', 'cdd.core.x', 'configs.x', 'benchmarks.x', 'test_x'])
def test_what_is_deprecated_is_an_error_where_our_own_code_uses_it(module):
  with pytest.raises(DeprecationWarning, match='old'):
    exec(WARNS, dict(__name__=module))


@pytest.mark.parametrize('module', ['optax', 'cddx', 'flax.nnx'])
def test_what_libraries_do_among_themselves_is_none(module):
  with pytest.warns(DeprecationWarning, match='old'):
    exec(WARNS, dict(__name__=module))
