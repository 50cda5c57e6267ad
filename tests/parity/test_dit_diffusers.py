"""The diffusion transformer against diffusers' DiTTransformer2DModel with the same weights."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.interop.dit_weights import dit_options, dit_params, dit_tensors
from jaxgen.interop.safetensors import TensorFile, write_safetensors
from jaxgen.spacetime.dit import DiTConfig

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers (the [parity] extra) is not installed"
)

CASES = {
    "small": {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2},
    "patch_4": {"num_attention_heads": 4, "attention_head_dim": 6, "patch_size": 4},
    "learned_variance": {"num_attention_heads": 1, "attention_head_dim": 20, "out_channels": 8},
}
SHARED = {"sample_size": 8, "num_layers": 3, "num_embeds_ada_norm": 5}
OPTIONS = {"frequency_shift": 1.0, "mlp_norm_epsilon": 1e-5}
"""Where diffusers' model departs from the published one, in two numbers that are no weights."""


def randomised(model, seed=0):
    """Every parameter random (some start at zero), the embeddings equal in all blocks."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.normal_(0, fan_in**-0.5, generator=generator)
        first, *others = (block.norm1.emb for block in model.transformer_blocks)
        for embedding in others:
            embedding.load_state_dict(first.state_dict())
    return model.eval()


def abstract(config, *inputs):
    boxed = jax.eval_shape(config.make_model().init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(
        lambda x: x.value, boxed, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata)
    )


def theirs(model, z_BYXC, time_B, label_B):
    with torch.no_grad():
        output = model(
            torch.tensor(z_BYXC.transpose(0, 3, 1, 2)), torch.tensor(time_B), torch.tensor(label_B)
        )
    return output.sample.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("case", CASES)
def test_forward_pass(case, tmp_path):
    model = randomised(diffusers.DiTTransformer2DModel(**{**SHARED, **CASES[case]}))
    model.save_pretrained(tmp_path)
    tensors = TensorFile(tmp_path)
    options = dit_options(tensors, heads=model.config.num_attention_heads)
    config = DiTConfig(**options, **OPTIONS)
    rng = np.random.default_rng(1)
    z_BYXC = rng.normal(size=(3, 8, 8, 4)).astype(np.float32)
    inputs = z_BYXC, np.array([0.0, 417.0, 999.0], np.float32), np.array([0, 3, 5], np.int32)
    params = dit_params(tensors, abstract(config, *inputs), config.patch)
    expected = theirs(model, *inputs)
    found = jax.jit(config.make_model().apply)({"params": params}, *inputs)
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-5
    # And back: the same tensors, bit by bit, which their model takes.
    back = dit_tensors(params, "diffusers", config.patch)
    assert set(back) == set(tensors)
    assert all(back[name].tobytes() == tensors[name].tobytes() for name in tensors)
    write_safetensors(tmp_path / "diffusion_pytorch_model.safetensors", back, {"format": "pt"})
    again = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(theirs(again, *inputs), expected)
