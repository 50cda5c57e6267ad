"""unCLIP's diffusion prior under diffusers' names, without diffusers."""

import jax
import numpy as np
import pytest
from random_params import random_params

from jaxgen.encoders import ImagePriorConfig
from jaxgen.errors import InputError
from jaxgen.interop.prior_weights import (
    prior_fields,
    prior_options,
    prior_params,
    prior_tensors,
)
from jaxgen.pretrained import load_prior, save_prior

CONFIG = ImagePriorConfig(
    width=12, depth=2, heads=3, mlp_units=48, text_width=10, text_length=5, pooled_width=10
)


def init(key):
    z, text = np.zeros((1, 10)), np.zeros((1, 5, 10))
    made = CONFIG.make_model().init(key, z, np.zeros(1), text_BNC=text, pooled_BC=z)["params"]
    return {**made, "statistics": {"mean": z[0], "deviation": z[0]}}


@pytest.fixture(scope="module")
def params():
    return random_params(init)


def test_names_and_shapes(params):
    tensors = prior_tensors(params)
    expected = {
        "proj_in.weight": (12, 10),
        "embedding_proj.weight": (12, 10),
        "encoder_hidden_states_proj.bias": (12,),
        "prd_embedding": (1, 1, 12),
        "positional_embedding": (1, 9, 12),
        "time_embedding.linear_1.weight": (12, 12),
        "transformer_blocks.1.attn1.to_k.weight": (12, 12),
        "transformer_blocks.1.attn1.to_out.0.bias": (12,),
        "transformer_blocks.0.ff.net.0.proj.weight": (48, 12),
        "transformer_blocks.0.norm3.weight": (12,),
        "proj_to_clip_embeddings.weight": (10, 12),
        "clip_mean": (1, 10),
        "clip_std": (1, 10),
    }
    assert {name: tensors[name].shape for name in expected} == expected
    assert len(tensors) == 2 * 16 + 18
    np.testing.assert_array_equal(
        tensors["transformer_blocks.0.attn1.to_q.weight"],
        np.asarray(params["blocks_0"]["attention"]["qkv"]["kernel"])[:, :, 0].reshape(12, 12).T,
    )


def test_there_and_back(params, tmp_path):
    again = prior_params(prior_tensors(params), params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    save_prior(tmp_path, CONFIG, params, variant="fp16")
    config, half = load_prior(tmp_path, dtype=None)
    assert config == CONFIG == ImagePriorConfig(**prior_options(prior_fields(CONFIG)))
    assert half["query"].dtype == np.float16


def test_a_tensor_that_is_not_there(params):
    tensors = prior_tensors(params)
    del tensors["clip_mean"]
    with pytest.raises(InputError, match=r"no tensor 'clip_mean', expected shape \(1, 10\)"):
        prior_params(tensors, params)
