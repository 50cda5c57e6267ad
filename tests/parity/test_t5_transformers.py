"""T5's encoder against transformers' with the same weights, and its folders in both directions."""

import numpy as np
import pytest

from jaxgen.encoders import make_encoder
from jaxgen.interop.safetensors import TensorFile, write_safetensors
from jaxgen.nn.relative import bucket_index
from jaxgen.pretrained import load_t5, save_t5

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
transformers = pytest.importorskip(
    "transformers", reason="transformers (the [parity] extra) is not installed"
)

SIZES = {"vocab_size": 40, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_heads": 3}
SIZES |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}


def randomised(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.normal_(0, fan_in**-0.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def encoder():
    config = transformers.T5Config(**SIZES, feed_forward_proj="gated-gelu")
    return randomised(transformers.T5EncoderModel(config))


def difference(found, expected):
    expected = expected.detach().numpy()
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def test_states(encoder, tmp_path):
    """With and without padding, longer than the buckets reach; and back, bit by bit."""
    encoder.save_pretrained(tmp_path / "theirs")
    config, params = load_t5(tmp_path / "theirs")
    ids_BL = np.random.default_rng(0).integers(2, 40, (2, 50)).astype(np.int32)
    mask_BL = np.arange(50) < np.array([[50], [17]])
    encode = make_encoder(config, params)

    def theirs(model, **given):
        with torch.no_grad():
            return model(torch.tensor(ids_BL).long(), **given).last_hidden_state

    expected = theirs(encoder)
    assert difference(encode(ids_BL).states_BLD, expected) < 1e-4
    found = encode(ids_BL, mask_BL)
    masked = theirs(encoder, attention_mask=torch.tensor(mask_BL).long())
    assert difference(found.states_BLD, masked) < 1e-4
    assert difference(found.pooled_BD[1], masked[1, :17].mean(0)) < 1e-4
    np.testing.assert_array_equal(found.mask_BL, mask_BL)

    save_t5(tmp_path / "ours", config, params)
    before, after = TensorFile(tmp_path / "theirs"), TensorFile(tmp_path / "ours")
    assert set(after) == set(before)
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    again = transformers.T5EncoderModel.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(theirs(again), expected)


def test_the_whole_model_and_copies_of_the_table_open(encoder, tmp_path):
    config = transformers.T5Config(**SIZES, feed_forward_proj="gated-gelu")
    whole = randomised(transformers.T5ForConditionalGeneration(config))
    whole.save_pretrained(tmp_path)
    tensors = dict(TensorFile(tmp_path))
    assert any(name.startswith("decoder.") for name in tensors)
    ids_BL = np.array([[4, 5, 6, 1]], np.int32)
    with torch.no_grad():
        expected = whole.encoder(torch.tensor(ids_BL).long()).last_hidden_state
    assert difference(make_encoder(*load_t5(tmp_path))(ids_BL).states_BLD, expected) < 1e-4
    for names in (
        ["encoder.embed_tokens.weight"],
        ["shared.weight", "encoder.embed_tokens.weight"],
    ):
        table = tensors.pop("shared.weight", None)
        table = tensors["encoder.embed_tokens.weight"] if table is None else table
        write_safetensors(tmp_path / "model.safetensors", tensors | dict.fromkeys(names, table))
        tensors |= dict.fromkeys(names, table)
        found = make_encoder(*load_t5(tmp_path))(ids_BL).states_BLD
        assert difference(found, expected) < 1e-4


@pytest.mark.parametrize(("buckets", "largest"), [(32, 128), (8, 20), (64, 256)])
def test_buckets(buckets, largest):
    offset = np.arange(-300, 301)
    theirs = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket(
        torch.tensor(-offset), bidirectional=True, num_buckets=buckets, max_distance=largest
    )
    np.testing.assert_array_equal(bucket_index(offset, buckets, largest), theirs.numpy())
