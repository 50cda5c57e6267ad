"""The transformer blocks of a U-Net that reads texts, under diffusers' names.

=============================  =====================================
here, in ``blocks_i``          diffusers, in ``transformer_blocks.i``
=============================  =====================================
pixels_norm                    norm1
pixels/qkv                     attn1.to_q, to_k, to_v
pixels/output                  attn1.to_out.0
text_norm                      norm2
text/query                     attn2.to_q
text/key_value                 attn2.to_k, to_v
text/output                    attn2.to_out.0
mlp_norm                       norm3
mlp/hidden                     ff.net.0.proj, all of a before all of b
mlp/output                     ff.net.2
=============================  =====================================
"""

from jaxgen.interop.tensors import Rule, bias, linear, same, stacked, swapped

LAYERS = {
    "pixels_norm": "norm1",
    "pixels/qkv": "attn1.to_",
    "pixels/output": "attn1.to_out.0",
    "text_norm": "norm2",
    "text/query": "attn2.to_q",
    "text/key_value": "attn2.to_",
    "text/output": "attn2.to_out.0",
    "mlp_norm": "norm3",
    "mlp/hidden": "ff.net.0.proj",
    "mlp/output": "ff.net.2",
}
PARTS = {"pixels/qkv": "qkv", "text/key_value": "kv"}
"""Layers that are several there, whose names end in these letters."""


def text_block_rule(block: str, layer: str, kind: str) -> Rule | None:
    """The rule of a parameter of one block.

    Args:
      block: what the block is called in the file, with a dot at the end.
      layer: what its layer is called here.
      kind: of the parameter: "kernel", "bias" or "scale".
    """
    if layer not in LAYERS:
        return None
    name = block + LAYERS[layer]
    if layer in PARTS:
        return stacked([_rule(layer, name + part, kind) for part in PARTS[layer]], axis=-2)
    rule = _rule(layer, name, kind)
    return swapped(rule, -2, -1) if layer == "mlp/hidden" else rule


def _rule(layer: str, name: str, kind: str) -> Rule:
    if kind == "bias":
        return bias(f"{name}.bias")
    if kind == "scale":
        return same(f"{name}.weight")
    heads = layer in ("pixels/output", "text/output")
    return linear(f"{name}.weight", inputs=2 if heads else 1)
