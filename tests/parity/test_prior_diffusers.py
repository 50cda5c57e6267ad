"""unCLIP's diffusion prior against diffusers' with the same weights, and its folders both ways."""

import jax
import numpy as np
import pytest

from jaxgen.encoders import ImagePriorConfig
from jaxgen.errors import InputError
from jaxgen.interop.prior_weights import prior_fields, prior_options
from jaxgen.interop.safetensors import TensorFile, write_safetensors
from jaxgen.nn.counting import parameter_count
from jaxgen.pretrained import image_vectors, load_prior, save_prior
from jaxgen.pretrained.networks import abstract_params

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers (the [parity] extra) is not installed"
)
from random_models import randomised  # noqa: E402

SIZES = {"num_attention_heads": 3, "attention_head_dim": 4, "num_layers": 2}
SIZES |= {"embedding_dim": 10, "num_embeddings": 5}


@pytest.fixture(scope="module")
def prior():
    return randomised(diffusers.PriorTransformer(**SIZES))


def inputs():
    rng = np.random.default_rng(0)
    z, pooled = rng.normal(size=(2, 3, 10)).astype(np.float32)
    text = rng.normal(size=(3, 5, 10)).astype(np.float32)
    mask = np.arange(5) < np.array([[5], [3], [1]])
    return z, np.array([999.0, 500.0, 3.0], np.float32), text, mask, pooled


def theirs(model, z, time, text, mask, pooled):
    given = (torch.tensor(each) for each in (z, time, pooled, text, mask))
    with torch.no_grad():
        return model(*given, return_dict=False)[0].numpy()


def ours(config, params, z, time, text, mask, pooled):
    given = {"text_BNC": text, "text_mask_BN": mask, "pooled_BC": pooled}
    return np.asarray(config.make_model().apply({"params": params}, z, time, **given))


def test_vectors(prior, tmp_path):
    """With padding; and back, bit by bit."""
    prior.save_pretrained(tmp_path / "theirs")
    config, params = load_prior(tmp_path / "theirs")
    expected = theirs(prior, *inputs())
    found = ours(config, params, *inputs())
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    scaled = prior.post_process_latents(torch.tensor(expected)).detach().numpy()
    np.testing.assert_allclose(image_vectors(params, expected), scaled, atol=1e-6)

    save_prior(tmp_path / "ours", config, params)
    before, after = TensorFile(tmp_path / "theirs"), TensorFile(tmp_path / "ours")
    assert set(after) == set(before)
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    again = diffusers.PriorTransformer.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(theirs(again, *inputs()), expected)


def test_the_prior_of_a_pipeline_opens(prior, tmp_path):
    prior.save_pretrained(tmp_path / "prior", variant="fp16")
    assert load_prior(tmp_path).config == load_prior(tmp_path, variant="fp16").config


def test_a_prior_of_ones_own_has_statistics_of_unit_vectors(prior, tmp_path):
    prior.save_pretrained(tmp_path / "theirs")
    config, params = load_prior(tmp_path / "theirs")
    save_prior(tmp_path / "ours", config, {k: v for k, v in params.items() if k != "statistics"})
    again = load_prior(tmp_path / "ours").params
    vector = np.full((1, 10), 1.0, np.float32)  # of length sqrt(10)
    np.testing.assert_allclose(np.linalg.norm(image_vectors(again, vector)), 1, rtol=1e-6)


def test_the_published_size():
    """The defaults, those of Karlo's and Kandinsky's priors, parameter by parameter."""
    with torch.device("meta"):
        wanted = sum(p.numel() for p in diffusers.PriorTransformer().parameters())
    config = ImagePriorConfig(**prior_options({}))
    assert config == ImagePriorConfig()
    shapes = abstract_params(config, (), config.pooled_width)
    assert parameter_count(shapes) + 2 * 768 == wanted  # their mean and deviation
    assert prior_options(prior_fields(config)) == prior_options({})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "_class_name is 'UNet2DModel', expected PriorTransformer"),
        ({"norm_in_type": "layer"}, "norm_in_type is 'layer', expected None"),
        ({"added_emb_type": None}, "added_emb_type is None, expected 'prd'"),
        ({"clip_embed_dim": 9}, "clip_embed_dim is 9, expected 10"),
    ],
)
def test_other_priors_are_refused_by_name(fields, message):
    with pytest.raises(InputError, match=message):
        prior_options({**SIZES, **fields})


def test_what_diffusers_has_not_is_refused(prior, tmp_path):
    config = ImagePriorConfig(width=12, heads=3, mlp_units=48, text_width=8, pooled_width=10)
    with pytest.raises(InputError, match="text_width is 8, expected 10"):
        save_prior(tmp_path, config, {})
    prior.save_pretrained(tmp_path)
    tensors = dict(TensorFile(tmp_path))
    del tensors["prd_embedding"]
    write_safetensors(tmp_path / "diffusion_pytorch_model.safetensors", tensors)
    with pytest.raises(InputError, match=r"no tensor 'prd_embedding', expected shape \(1, 1, 12\)"):
        load_prior(tmp_path)


def test_tokens_see_those_before_them_alone(prior, tmp_path):
    """The output moves with every token that is no padding, and with no other."""
    prior.save_pretrained(tmp_path)
    config, params = load_prior(tmp_path)
    given = inputs()
    gradient = jax.grad(lambda text: ours_sum(config, params, given, text))(given[2])
    moved = np.abs(np.asarray(gradient)).max(axis=-1) > 0
    np.testing.assert_array_equal(moved, given[3])


def ours_sum(config, params, given, text):
    conditions = {"text_BNC": text, "text_mask_BN": given[3], "pooled_BC": given[4]}
    return config.make_model().apply({"params": params}, *given[:2], **conditions).sum()
