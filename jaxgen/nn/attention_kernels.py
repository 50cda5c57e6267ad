"""Fused attention of GPUs and TPUs, and when each may be used.

Both kernels ship with JAX. They compute logits and softmax in float32 and never write the [L, N]
logits to memory; segment ids reach cuDNN as a mask and the TPU kernel as they are.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from jaxgen.axes import BATCH_MESH_AXES, MODEL
from jaxgen.errors import InputError
from jaxgen.nn.token_sharding import auto_axes

CUDNN_HEAD_SIZES = range(8, 129, 8)
"""What every GPU since Ampere takes."""

PALLAS_BLOCK = 128
"""Sequences are padded to a multiple of it, the kernel's smallest block."""

PALLAS_LENGTH = 512
"""Keys from which `auto` takes the kernel: below, one fused softmax fits the memory beside it."""


BLOCKS_LENGTH = 512
"""Keys from which `auto` skips blocks on CPU, or takes one head after the other."""


def choose(
    implementation: str,
    q_BLHK: Array,
    k_BNHK: Array,
    has_segments: bool = False,
    has_bias: bool = False,
    hides: bool = False,
) -> str:
    """The implementation to use: "plain", "heads", "blocks", "cudnn" or "pallas".

    Args:
      implementation: one of these, which is then checked, or "auto".
      q_BLHK: queries; their shape and type decide.
      k_BNHK: keys.
      has_segments: whether there are segment ids.
      has_bias: whether logits have a bias.
      hides: whether any key is hidden from any query, by segment ids or otherwise.

    Raises:
      InputError: if an implementation was asked for where it cannot run.
    """
    if implementation == "blocks" and has_bias:
        raise InputError("attention implementation is 'blocks' with a bias, expected another")
    if implementation == "heads" and (has_bias or hides):
        raise InputError(
            "attention implementation is 'heads' with a bias, segment ids or a reach, expected "
            "another"
        )
    if implementation in ("plain", "heads", "blocks"):
        return implementation
    if implementation not in ("auto", "cudnn", "pallas"):
        raise InputError(
            f"attention implementation is {implementation!r}, "
            "expected 'auto', 'plain', 'heads', 'blocks', 'cudnn' or 'pallas'"
        )
    backend = jax.default_backend()
    obstacles = {
        "cudnn": _cudnn_obstacle(backend, q_BLHK, k_BNHK),
        "pallas": None if backend == "tpu" else f"a TPU, and this process runs on {backend}",
    }
    if implementation != "auto":
        if obstacles[implementation]:
            raise InputError(
                f"attention implementation {implementation!r} needs {obstacles[implementation]}, "
                "expected 'auto' or 'plain' here"
            )
        return implementation
    if obstacles["cudnn"] is None:
        return "cudnn"
    if obstacles["pallas"] is None and k_BNHK.shape[1] >= PALLAS_LENGTH:
        return "pallas"
    if backend == "cpu" and not has_bias and k_BNHK.shape[1] >= BLOCKS_LENGTH:
        if has_segments:
            return "blocks"
        if not hides and _is_alone():
            return "heads"
    return "plain"


def _is_alone() -> bool:
    """Whether arrays are on one device: heads in turn would gather those of others."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1


def _cudnn_obstacle(backend: str, q: Array, k: Array) -> str | None:
    """What cuDNN's kernel would need and has not, None where it can run."""
    if backend != "gpu":
        return f"a GPU, and this process runs on {backend}"
    if not _is_ampere_or_newer():
        return "an NVIDIA GPU of compute capability 8.0 or more, and this is another one"
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"bfloat16 or float16, and the queries are {q.dtype}"
    if q.shape[-1] not in CUDNN_HEAD_SIZES:
        return f"a head size that is a multiple of 8 up to 128, and it is {q.shape[-1]}"
    lengths = q.shape[1], k.shape[1]
    if any(length % 2 for length in lengths):  # JAX has no gradient for them, biased or not
        return f"even lengths, and they are {lengths}"
    return None


def _is_ampere_or_newer() -> bool:
    """Whether the first GPU is NVIDIA's, of compute capability 8 or more."""
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    major = capability.partition(".")[0]  # other vendors write "gfx90a" and the like
    return major.isdigit() and int(major) >= 8


def cudnn(
    q_BLHK: Float[Array, "B L H K"],
    k_BNHK: Float[Array, "B N H K"],
    v_BNHK: Float[Array, "B N H K"],
    seen_BLN: Bool[Array, "#B L N"] | None,
    bias_BHLN: Float[Array, "#B H L N"] | None,
) -> Float[Array, "B L H K"]:
    """cuDNN's fused attention; arguments as those of `jaxgen.nn.attention.attention`.

    Args:
      q_BLHK: queries.
      k_BNHK: keys.
      v_BNHK: values.
      seen_BLN: whether a query sees a key; None where all see all.
      bias_BHLN: added to the logits.
    """
    bias = None
    mask = None if seen_BLN is None else seen_BLN[:, None]
    if bias_BHLN is not None:
        bias = bias_BHLN.astype(q_BLHK.dtype)
    return jax.nn.dot_product_attention(q_BLHK, k_BNHK, v_BNHK, bias, mask, implementation="cudnn")


def pallas(
    q_BLHK: Float[Array, "B L H K"],
    k_BNHK: Float[Array, "B N H K"],
    v_BNHK: Float[Array, "B N H K"],
    segments: Any,
    bias_BHLN: Float[Array, "#B H L N"] | None,
) -> Float[Array, "B L H K"]:
    """The TPU's flash attention; arguments as those of `jaxgen.nn.attention.attention`.

    The compiler cannot cut a kernel in parts, so under a mesh it runs in a `jax.shard_map`: each
    device computes its examples (``data``, ``fsdp``) and its heads (``model``).
    """
    batch, _, heads, _ = q_BLHK.shape
    q_ids_BL, k_ids_BN = segments or (
        jnp.zeros((batch, x.shape[1]), jnp.int32) for x in (q_BLHK, k_BNHK)
    )
    if bias_BHLN is None:
        bias_BHLN = jnp.zeros((1, heads, 0, 0), jnp.float32)
    examples, over_heads = _shards(batch, heads)
    tokens, ids = P(examples, None, over_heads), P(examples)
    if examples is None and over_heads is None:
        return _flash(q_BLHK, k_BNHK, v_BNHK, q_ids_BL, k_ids_BN, bias_BHLN)
    biases = P(examples if bias_BHLN.shape[0] == batch else None, over_heads)
    return jax.shard_map(
        _flash,
        in_specs=(tokens, tokens, tokens, ids, ids, biases),
        out_specs=tokens,
        check_vma=False,  # the kernel does not say over which axes its result varies
    )(q_BLHK, k_BNHK, v_BNHK, q_ids_BL, k_ids_BN, bias_BHLN)


def _shards(batch: int, heads: int) -> tuple[tuple[str, ...] | None, str | None]:
    """The axes of the current mesh that examples and heads can be cut along."""
    sizes = auto_axes()
    parts = 1
    for axis in BATCH_MESH_AXES:
        parts *= sizes.get(axis, 1)
    examples = BATCH_MESH_AXES if parts > 1 and batch % parts == 0 else None
    model = sizes.get(MODEL, 1)
    return examples, MODEL if model > 1 and heads % model == 0 else None


def _flash(
    q_BLHK: Array, k_BNHK: Array, v_BNHK: Array, q_ids_BL: Array, k_ids_BN: Array, bias_BHLN: Array
) -> Array:
    """The kernel on one device: pads lengths, swaps heads and length, and undoes both."""
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel

    length, size = q_BLHK.shape[1], q_BLHK.shape[-1]
    q, k, v = (_pad(x.swapaxes(1, 2), 2) for x in (q_BLHK, k_BNHK, v_BNHK))
    # Padding is a segment that nobody else is in, unless the caller pads by -1 too, which is well.
    ids = kernel.SegmentIds(_pad(q_ids_BL, 1, -1), _pad(k_ids_BN, 1, -1))
    bias = None
    if bias_BHLN.size:
        # The kernel scales the sum of product and bias, so the bias is magnified before.
        bias = _pad(_pad(bias_BHLN.astype(jnp.float32) * size**0.5, 2), 3)
        bias = jnp.broadcast_to(bias, (q.shape[0], *bias.shape[1:]))
    seen = kernel.flash_attention(q, k, v, bias, ids, sm_scale=size**-0.5)
    return seen[:, :, :length].swapaxes(1, 2)


def _pad(x: Array, axis: int, value: int = 0) -> Array:
    """x with one axis padded to a multiple of the kernel's block."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % PALLAS_BLOCK)
    return jnp.pad(x, widths, constant_values=value)
