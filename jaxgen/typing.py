"""Types that all packages share."""

from collections.abc import Mapping
from typing import Any

Tree = Any
"""A pytree, mostly of arrays; a tree of parameters is a nested dict of them."""

Batch = Mapping[str, Any]
"""Arrays by name, all with the same leading axis B."""
