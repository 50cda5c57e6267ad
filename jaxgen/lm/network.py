"""Networks as language models: from a module and its parameters to numpy probabilities.

Every network of this package (the paper's, its tree, its short list, the energy variant) has the
same few methods, those of the protocol `WordNetwork`. `NetworkModel` makes of one of them and its
parameters what n-gram models are, a `jaxgen.lm.protocol.LanguageModel`: so evaluation, mixtures and
generation take either.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Float64, Int, Int32, Integer, Key

from jaxgen.errors import InputError
from jaxgen.lm.contexts import NO_WORD, check_contexts, check_targets
from jaxgen.parallel import Layout, num_batch_shards, put_batch, replicated, shardings_of
from jaxgen.parallel.sharding import gather_fsdp
from jaxgen.typing import Tree


class NetworkConfig(Protocol):
    """What the configuration of every network tells."""

    @property
    def order(self) -> int:
        """n: the words of a context plus one."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """V: the words that a context is made of."""
        ...

    @property
    def predicted(self) -> int:
        """Ids that get probabilities: V, or the outputs of a short list."""
        ...


class WordNetwork(Protocol):
    """A Linen module that predicts the next word; [B, n-1] contexts have the nearest word last.

    Used as ``network.apply({"params": params}, contexts_BL, ..., method="loss")``.
    """

    @property
    def config(self) -> NetworkConfig:
        """Its options."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs a method with these parameters, as every Linen module does."""
        ...

    def __call__(self, contexts_BL: Int[Array, "B L"]) -> Float[Array, "B V"]:
        """Logits (or log-probabilities) [B, V'], of which the first ``predicted`` count."""
        ...

    def loss(
        self,
        contexts_BL: Int[Array, "B L"],
        targets_B: Int[Array, "B"],
        weights_B: Float[Array, "B"] | None = None,
        train: bool = True,
    ) -> tuple[Float[Array, ""], Float[Array, "B"]]:
        """Mean negative log-likelihood in nats (differentiable), and that of each example [B]."""
        ...

    def log_probabilities(
        self, contexts_BL: Int[Array, "B L"], targets_B: Int[Array, "B"]
    ) -> Float[Array, "B"]:
        """``log P(target | context)`` [B] in nats."""
        ...

    def top_k(
        self, contexts_BL: Int[Array, "B L"], k: int
    ) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
        """The k likeliest next words: log-probabilities [B, k] in nats and ids [B, k]."""
        ...

    def sample(
        self, contexts_BL: Int[Array, "B L"], key: Key[Array, ""], **options: Any
    ) -> Int[Array, "B"]:
        """A next word for each context [B], with the options of `sharded_logits.sample_sharded`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkModel:
    """A network and its parameters as a `LanguageModel`: numpy in and out, float64 probabilities.

    It runs where the parameters are: on their mesh if they have one (every process then gets the
    results), else on one device, or on the mesh of ``jax.set_mesh``. Logits are float32;
    probabilities are normalised in float64.

    A network has features for words alone: contexts with -1 ("no word") are refused. Evaluate it
    from position ``order - 1`` of a text on.

    Attributes:
      network: the module.
      params: its parameters, a plain (unboxed) tree.
      batch: contexts computed at a time. The last of them are padded to a power of two, so that few
        shapes are compiled.
    """

    network: WordNetwork
    params: Tree
    batch: int = 512

    def __post_init__(self) -> None:
        """Refuses an empty batch."""
        if self.batch < 1:
            raise InputError(f"batch is {self.batch}, expected 1 or more contexts")

    @property
    def order(self) -> int:
        """n: the words of a context plus one."""
        return self.network.config.order

    @property
    def vocabulary_size(self) -> int:
        """Ids that can be predicted."""
        return self.network.config.predicted

    @property
    def least_context(self) -> int:
        """All n - 1 words."""
        return self.order - 1

    def probabilities(
        self, contexts_NL: Integer[np.ndarray, "N L"], targets_N: Integer[np.ndarray, "N"]
    ) -> Float64[np.ndarray, "N"]:
        """P(target | context) of each pair; see `jaxgen.lm.protocol.LanguageModel`.

        Raises:
          InputError: for too few columns, an id out of range or a context with no word.
        """
        contexts_NL = self._check(contexts_NL)
        targets_N = check_targets(targets_N, len(contexts_NL), self.vocabulary_size)
        log_p_N = self._run("log_probabilities", contexts_NL, targets_N)
        return np.exp(log_p_N.astype(np.float64))

    def distributions(self, contexts_NL: Integer[np.ndarray, "N L"]) -> Float64[np.ndarray, "N V"]:
        """P(w | context) for every w; each row sums to one. Errors as for `probabilities`."""
        logits_NV = self._run("__call__", self._check(contexts_NL))
        y_NV = logits_NV[:, : self.vocabulary_size].astype(np.float64)
        y_NV -= y_NV.max(axis=1, keepdims=True)
        np.exp(y_NV, out=y_NV)
        return y_NV / y_NV.sum(axis=1, keepdims=True)

    def _check(self, contexts_NL: Integer[np.ndarray, "N L"]) -> Int32[np.ndarray, "N L2"]:
        contexts_NL = check_contexts(contexts_NL, self.order, self.network.config.vocabulary_size)
        if np.any(contexts_NL == NO_WORD):
            raise InputError(
                f"contexts contain {NO_WORD} (no word), of which a network knows nothing, "
                f"expected {self.order - 1} words before each position"
            )
        return contexts_NL

    def _run(self, method: str, *arrays: np.ndarray) -> np.ndarray:
        """A method of the network on all rows of the arrays, a padded batch at a time."""
        count, parts = len(arrays[0]), []
        for first in range(0, max(count, 1), self.batch):
            rows = min(self.batch, count - first)
            padding = min(self.batch, 1 << max(rows - 1, 0).bit_length()) - rows
            # Padding is the id 0, which every vocabulary has.
            batch = [
                np.pad(x[first : first + rows], [(0, padding)] + [(0, 0)] * (x.ndim - 1))
                for x in arrays
            ]
            parts.append(np.asarray(self._methods[method](*batch))[:rows])
        return np.concatenate(parts)

    @functools.cached_property
    def _methods(self) -> Mapping[str, Callable[..., Array]]:
        def method(name: str) -> Callable[..., Array]:
            def function(params, *batch):
                return self.network.apply({"params": params}, *batch, method=name)

            return compile_with(self.params, function)

        return {name: method(name) for name in ("log_probabilities", "__call__")}


def compile_with(params: Tree, function: Callable[..., Tree]) -> Callable[..., Tree]:
    """``function(params, *arrays)`` compiled for parameters with their shardings.

    Args:
      params: a tree of arrays, on a mesh (as `jaxgen.parallel.init_sharded` puts them) or not.
      function: pure; given parameters that are whole along ``fsdp``.

    Returns:
      ``run(*arrays)``: the function with these parameters. On a mesh, rows of the arrays are spread
      over the examples' axes where they divide, and every process gets the whole result.
    """
    leaves = jax.tree.leaves(params)
    if not all(isinstance(getattr(x, "sharding", None), NamedSharding) for x in leaves):
        return functools.partial(jax.jit(function), params)
    mesh = leaves[0].sharding.mesh
    layout = Layout(mesh, abstract=params, shardings=shardings_of(params), axes=None)

    def on_mesh(params, *arrays):
        return function(gather_fsdp(params, layout), *arrays)

    compiled = jax.jit(on_mesh, out_shardings=replicated(mesh))

    def run(*arrays):
        shards = num_batch_shards(mesh)
        spread = [put_batch(x, mesh) if np.ndim(x) and len(x) % shards == 0 else x for x in arrays]
        with jax.set_mesh(mesh):
            return compiled(params, *spread)

    return run
