"""jaxgen: generative models as pure functions of parameters and inputs, in JAX and Flax.

Importing this package imports no accelerator library and touches no device; import the room that
you need, for example ``from jaxgen import lm`` or ``from jaxgen.parallel import make_mesh``.
"""

__version__ = "0.1.0"
