"""Two ways to attend over tokens that devices share: all-to-all over heads, and the ring.

    python -m benchmarks.sequence_attention                   # 8 simulated devices, sequence=8
    python -m benchmarks.sequence_attention --mesh sequence=4,model=2 --length 2048 --rounds 9

* all-to-all: `jaxgen.nn.sequence_attention`, what the library does (DeepSpeed Ulysses); with plain
  attention on each device, as the ring's, and with what is chosen by default, which of packs in
  long sequences skips blocks of other examples.
* ring: each device keeps its queries, keys and values travel from device to device, the softmax is
  put together part by part (Liu et al. 2023, "Ring Attention"). Logits are computed again in the
  backward pass; the keys and values that came by are kept for it, which costs memory and saves
  sending them twice.

For each: bytes that a device contributes to collectives in the forward pass, and in forward and
backward pass together, as `jaxgen.parallel.communication` reads them from the compiled program; and
the median seconds of a call, all taking turns. What the wires carry differs from that: of an
all-to-all each device sends (n - 1) / n of what it contributes, of a permutation all of it.
"""

import argparse
import functools
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.contenders import write_report

CONTENDERS = "all-to-all", "all-to-all, default", "ring"


def main() -> None:
    """Runs the comparison, prints it and writes it."""
    arguments = parse_arguments()
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={arguments.devices}"
    import jax

    from jaxgen.parallel import make_mesh

    mesh = make_mesh(arguments.mesh)
    with jax.set_mesh(mesh):
        rows = measure(mesh, arguments)
    report = {"arguments": {k: str(v) for k, v in vars(arguments).items()}, "rows": rows}
    write_report(report, to_markdown(rows, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=8, help="simulated ones")
    parser.add_argument("--mesh", default="sequence=8")
    parser.add_argument("--batch", type=int, default=2, help="examples")
    parser.add_argument("--length", type=int, default=1024, help="tokens of an example")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-size", type=int, default=32)
    parser.add_argument("--examples", type=int, default=4, help="of a pack; 1: no segment ids")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, help="path without suffix for .md and .json")
    return parser.parse_args()


def measure(mesh: Any, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Bytes and seconds of all, forward, and forward and backward, taking turns."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from jaxgen.parallel import communication

    generator = np.random.default_rng(0)
    shape = arguments.batch, arguments.length, arguments.heads, arguments.head_size
    qkv = [generator.normal(size=shape).astype(np.float32) for _ in range(3)]
    tokens = NamedSharding(mesh, P(("data", "fsdp"), "sequence", "model"))
    given = jax.device_put(qkv, tokens)
    ids_BL = None
    if arguments.examples > 1:
        ids_BL = np.arange(arguments.length, dtype=np.int32) * arguments.examples
        ids_BL = np.tile(ids_BL // arguments.length, (arguments.batch, 1))
    programs, rows = {}, []
    for name in CONTENDERS:
        own = functools.partial(ring if name == "ring" else all_to_all, ids_BL=ids_BL)
        if name == "all-to-all, default":
            own = functools.partial(own, implementation="auto")
        for way, function in (("forward", own), ("both ways", with_backward(own))):
            programs[name, way] = jax.jit(function).lower(*given).compile()
    check_equal(programs, given)
    seconds: dict[Any, list[float]] = {key: [] for key in programs}
    for _ in range(arguments.rounds):
        for key, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*given))
            seconds[key].append(time.perf_counter() - start)
    for (name, way), program in programs.items():
        found = communication(program, mesh=mesh)
        rows.append(
            {
                "attention": name,
                "pass": way,
                "collectives": sum(c.times for c in found),
                "bytes": found.bytes,
                "sent": sum(wire_bytes(c) for c in found),
                "seconds": statistics.median(seconds[name, way]),
            }
        )
    return rows


def wire_bytes(collective: Any) -> float:
    """What a device sends: see `jaxgen.parallel.collectives.report`."""
    n = collective.group_size
    share = {"all-to-all": (n - 1) / n, "all-reduce": 2 * (n - 1) / n, "all-gather": n - 1}
    return collective.bytes * share.get(collective.kind, 1)


def with_backward(function: Callable[..., Any]) -> Callable[..., Any]:
    """The gradients of a sum over what is seen."""
    import jax
    import jax.numpy as jnp

    return jax.grad(lambda q, k, v: jnp.sin(function(q, k, v)).sum(), (0, 1, 2))


def check_equal(programs: Any, given: Any) -> None:
    """Refuses to compare what gives different results."""
    import jax
    import numpy as np

    for way in ("forward", "both ways"):
        found = [jax.tree.leaves(programs[name, way](*given)) for name in CONTENDERS]
        for a, *others in zip(*found, strict=True):
            for b in others:
                np.testing.assert_allclose(a, b, atol=1e-4)


def all_to_all(q: Any, k: Any, v: Any, ids_BL: Any, implementation: Any = "plain") -> Any:
    """The library's."""
    from jaxgen.nn.attention import attention_of_views
    from jaxgen.nn.visibility import View

    return attention_of_views(q, k, v, [View(segments_BL=ids_BL)], implementation)


def ring(q: Any, k: Any, v: Any, ids_BL: Any) -> Any:
    """The ring's."""
    import jax
    from jax.sharding import PartitionSpec as P

    tokens, ids = P(("data", "fsdp"), "sequence", "model"), P(("data", "fsdp"), "sequence")
    specs = tokens, tokens, tokens, None if ids_BL is None else ids
    run = jax.shard_map(on_device, in_specs=specs, out_specs=tokens, check_vma=False)
    return run(q, k, v, ids_BL)


def on_device(q: Any, k: Any, v: Any, ids: Any) -> Any:
    """Own queries meet all keys, part by part: as `jaxgen.nn.block_attention`."""
    import jax
    import jax.numpy as jnp

    count = jax.lax.axis_size("sequence")
    to_next = [(i, (i + 1) % count) for i in range(count)]
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    lowest = jnp.finfo(jnp.float32).min

    @jax.checkpoint
    def meet(carry: Any, k: Any, v: Any, of_keys: Any) -> Any:
        highest_BHL, sum_BHL, seen_BLHK = carry
        logits_BHLN = product("BLHK,BNHK->BHLN", q * q.shape[-1] ** -0.5, k)
        if ids is not None:
            seen = ids[:, None, :, None] == of_keys[:, None, None, :]
            logits_BHLN = jnp.where(seen, logits_BHLN, lowest)
        new_BHL = jax.lax.stop_gradient(jnp.maximum(highest_BHL, logits_BHLN.max(-1)))
        weights_BHLN = jnp.exp(logits_BHLN - new_BHL[..., None])
        if ids is not None:
            weights_BHLN = jnp.where(seen, weights_BHLN, 0)
        shrink_BHL = jnp.exp(highest_BHL - new_BHL)
        added = product("BHLN,BNHK->BLHK", weights_BHLN, v)
        seen_BLHK = seen_BLHK * shrink_BHL.swapaxes(1, 2)[..., None] + added
        return new_BHL, sum_BHL * shrink_BHL + weights_BHLN.sum(-1), seen_BLHK

    batch, length, heads, _ = q.shape
    highest = jnp.full((batch, heads, length), lowest)
    carry, part = (highest, jnp.zeros_like(highest), jnp.zeros_like(q)), (k, v, ids)
    for step in range(count):
        carry = meet(carry, *part)
        if step < count - 1:
            part = jax.tree.map(lambda x: jax.lax.ppermute(x, "sequence", to_next), part)
    _, sum_BHL, seen_BLHK = carry
    return seen_BLHK / sum_BHL.swapaxes(1, 2)[..., None]


def to_markdown(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The table."""
    lines = [
        f"{arguments.devices} devices, {arguments.mesh}: {arguments.batch} x {arguments.length} "
        f"tokens, {arguments.heads} heads of {arguments.head_size}, float32, "
        f"{arguments.examples} examples to a sequence",
        "",
        "| attention | pass | collectives | bytes of a device | bytes it sends | ms |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['attention']} | {row['pass']} | {row['collectives']} | {row['bytes']:,} "
            f"| {row['sent']:,.0f} | {1000 * row['seconds']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
