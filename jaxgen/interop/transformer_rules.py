"""The rules of layers that transformers of images have in common under PyTorch's names.

Layers go by their names here: kernels of "attention/output" have two axes of inputs (heads and
their width), and those of "attention/qkv" the heads before the three.
"""

from jaxgen.interop.tensors import Rule, bias, linear, same, swapped

QKV = "attention/qkv"


def linear_rule(layer: str, name: str, kind: str) -> Rule:
    """The rule of a linear layer's parameter, of a norm's scale, or of a table of classes.

    Args:
      layer: what the layer is called here.
      name: what it is called in the file, without ".weight".
      kind: of the parameter: "kernel", "bias", "scale" or "table".
    """
    if kind in ("table", "scale"):
        return same(f"{name}.weight")
    if kind == "bias":
        return bias(f"{name}.bias")
    return linear(f"{name}.weight", inputs=2 if layer == "attention/output" else 1)


def fused_rule(layer: str, name: str, kind: str) -> Rule:
    """The same, where queries, keys and values are one layer in the file too (timm's ``qkv``)."""
    rule = linear_rule(layer, name, kind)
    return swapped(rule, -3, -2) if layer == QKV else rule
