"""What bounds the softmax over a large vocabulary on a CPU: a roofline, and other arrangements.

    python -m benchmarks.softmax_roofline           # |V| = 17,906, D = 100, 512 examples

All forms compute, for B examples with hidden layers h [B, D] and a kernel K [D, V],

    y = h K      P = softmax(y)      dh = (P - target) K'      dK = h' (P - target)

that is three products of 2 B D V operations, counted alike for all, whatever else they do:

  as it is      `jaxgen.parallel.softmax.cross_entropy` with its gradient, 128 examples at a time
  blocks        blocks of V by D that stay in the second-level cache, all examples at a time: once
                for the normaliser and once more for the gradients, so four products
  bfloat16      as it is, with hidden layers and kernel in bfloat16
  products      the three products over chunks of 128 examples, and nothing between them
  square        one product of 2,048 by 2,048: the rate to which all are compared

and `stream`, which reads and writes as many bytes as pass through the last-level cache of one form
in a product over 128 examples: kernel and logits, three times each.

Everything runs in this process, in turns; figures are medians. The roofline's bound of a form is
the larger of its operations at the square product's rate and its bytes at the stream's.
"""

import argparse
import functools
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from benchmarks.contenders import progress, write_report
from benchmarks.nplm import make_bare_products, make_product
from jaxgen.parallel import keep_freed_memory
from jaxgen.parallel.softmax.output_units import Units, cross_entropy
from jaxgen.parallel.softmax.sharded_logits import CPU_CHUNK

SQUARE, STREAMS = 2048, 8


def main() -> None:
    """Runs all forms in turns and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", type=int, default=17906, help="V")
    parser.add_argument("--hidden", type=int, default=100, help="D")
    parser.add_argument("--batch", type=int, default=512, help="B, a multiple of 128")
    parser.add_argument("--blocks", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=pathlib.Path, help="path without suffix for .md and .json")
    arguments = parser.parse_args()
    keep_freed_memory()
    B, D, V = arguments.batch, arguments.hidden, arguments.vocabulary
    h_BD = jax.random.normal(jax.random.key(0), (B, D))
    kernel_DV = 0.1 * jax.random.normal(jax.random.key(1), (D, V))
    target_B = jax.random.randint(jax.random.key(2), (B,), 0, V)

    shape = {"vocabulary": V, "hidden": D, "order": 1, "features": 0, "direct": False}
    forms: dict[str, Callable[[], object]] = {
        "as it is": compiled(as_it_is, h_BD, kernel_DV, target_B),
        "bfloat16": compiled(
            as_it_is, h_BD.astype(jnp.bfloat16), kernel_DV.astype(jnp.bfloat16), target_B
        ),
        "products": make_bare_products(shape, B, 1),
        "square": make_product(SQUARE),
    }
    reference = forms["as it is"]()
    for size in arguments.blocks:
        cut = cut_kernel(kernel_DV, size)
        form = compiled(functools.partial(in_blocks, vocabulary=V), h_BD, cut, target_B)
        check_equal(reference, form(), V)
        forms[f"blocks of {size:,}"] = form
    streamed = jnp.zeros((CPU_CHUNK, V))
    forms["stream"] = compiled(lambda x: jax.lax.fori_loop(0, STREAMS, add_one, x), streamed)

    seconds = in_turns(forms, arguments.rounds)
    operations = 6 * B * D * V
    rate = 2 * SQUARE**3 / seconds.pop("square")
    bandwidth = 2 * STREAMS * streamed.nbytes / seconds.pop("stream")
    moved = 4 * V * (4 * D + 6 * CPU_CHUNK) * B / CPU_CHUNK
    lines = [
        f"square product {rate / 1e9:,.0f} Gflop/s, stream {bandwidth / 1e9:,.0f} GB/s: operations "
        f"take {1e3 * operations / rate:,.1f} ms, bytes {1e3 * moved / bandwidth:,.1f} ms",
        "",
        "| form | ms | Gflop/s | of the square product |",
        "|---|---:|---:|---:|",
    ]
    for name, value in seconds.items():
        share = operations / value / rate
        lines.append(
            f"| {name} | {1e3 * value:,.1f} | {operations / value / 1e9:,.0f} | {share:.0%} |"
        )
    report = {"seconds": seconds, "square_rate": rate, "bandwidth": bandwidth}
    write_report(report, "\n".join(lines), arguments.out)


def compiled(function: Callable[..., object], *given: Array) -> Callable[[], object]:
    """A call of the compiled function, to its end."""
    run = jax.jit(function)
    return lambda: jax.block_until_ready(run(*given))


def add_one(_: Array, x: Array) -> Array:
    """One round of the stream."""
    return x + 1


def in_turns(forms: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each form."""
    found: dict[str, list[float]] = {name: [] for name in forms}
    for round_ in range(rounds):
        for name, form in forms.items():
            started = time.perf_counter()
            form()
            found[name].append(time.perf_counter() - started)
        progress(f"round {round_ + 1} of {rounds}")
    return {name: statistics.median(values) for name, values in found.items()}


def as_it_is(
    h_BD: Float[Array, "B D"], kernel_DV: Float[Array, "D V"], target_B: Int[Array, "B"]
) -> tuple[Array, Array]:
    """The gradients of jaxgen's loss."""

    def loss(h_BD: Array, kernel_DV: Array) -> Array:
        V = kernel_DV.shape[1]
        return cross_entropy((h_BD,), Units((kernel_DV,), jnp.zeros(V), V), target_B)[0]

    return jax.grad(loss, (0, 1))(h_BD, kernel_DV)


def cut_kernel(kernel_DV: Array, size: int) -> Float[Array, "N D S"]:
    """The kernel as whole blocks [N, D, S], padded by units of zeros."""
    D, V = kernel_DV.shape
    padded = jnp.pad(kernel_DV, ((0, 0), (0, -V % size)))
    return padded.reshape(D, -1, size).swapaxes(0, 1)


def in_blocks(
    h_BD: Array, kernel_NDS: Float[Array, "N D S"], target_B: Array, *, vocabulary: int
) -> tuple[Array, Array]:
    """The gradients block by block: the normaliser first, then the products again."""
    count, _, size = kernel_NDS.shape
    id_NS = jnp.arange(count * size).reshape(count, size)

    def logits(kernel_DS: Array, id_S: Array) -> Array:
        return jnp.where(id_S < vocabulary, h_BD @ kernel_DS, -jnp.inf)

    def normalise(
        carry: tuple[Array, Array], block: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], None]:
        most_B, sum_B = carry
        y_BS = logits(*block)
        new_B = jnp.maximum(most_B, y_BS.max(axis=1))
        added_B = jnp.exp(y_BS - new_B[:, None]).sum(axis=1)
        return (new_B, sum_B * jnp.exp(most_B - new_B) + added_B), None

    start = jnp.full(len(h_BD), -jnp.inf), jnp.zeros(len(h_BD))
    (most_B, sum_B), _ = jax.lax.scan(normalise, start, (kernel_NDS, id_NS))
    normaliser_B = most_B + jnp.log(sum_B)

    def gradients(d_h_BD: Array, block: tuple[Array, Array]) -> tuple[Array, Array]:
        kernel_DS, id_S = block
        p_BS = jnp.exp(logits(*block) - normaliser_B[:, None])
        p_BS -= id_S == target_B[:, None]
        return d_h_BD + p_BS @ kernel_DS.T, h_BD.T @ p_BS

    d_h_BD, d_kernel_NDS = jax.lax.scan(gradients, jnp.zeros_like(h_BD), (kernel_NDS, id_NS))
    return d_h_BD / len(h_BD), d_kernel_NDS / len(h_BD)


def check_equal(expected: object, found: object, vocabulary: int) -> None:
    """Stops where two forms do not compute the same.

    Raises:
      ValueError: for a relative difference over 1e-3.
    """
    (d_h, d_kernel), (other_h, other_NDS) = expected, found  # type: ignore[misc]
    padded = other_NDS.swapaxes(0, 1).reshape(d_kernel.shape[0], -1)
    for one, other in ((d_h, other_h), (d_kernel, padded[:, :vocabulary])):
        if not jnp.abs(one - other).max() <= 1e-3 * jnp.abs(one).max():
            raise ValueError("blocks differ from what they are compared to")


if __name__ == "__main__":
    main()
