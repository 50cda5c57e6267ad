"""The one exception type for bad input.

Everything that a person can get wrong (a flag, a file, a shape, a configuration field) raises
:class:`InputError` with one line that names the thing and says what was expected. Experiments turn
it into that line on the terminal and exit code 2; programs catch it as a ``ValueError``.
"""


class InputError(ValueError):
    """What the caller gave cannot be used; the message names it and says what was expected."""
