"""Owns the error that a user can mend: the command line prints it without a traceback."""


class UserError(ValueError):
  """Bad input; the message names the value, the place and the choices."""
