"""Encoders that a run is given: T5's, as Imagen has it."""

import jax
import numpy as np
from flax import linen as nn

from experiments.text_to_image.support.text_networks import TextNetworkFlags, encoder_of
from experiments.text_to_image.support.text_samples import as_texts
from jaxgen.data import load_captioned
from jaxgen.data.tokenizers import save_tokenizer, train_tokenizer
from jaxgen.encoders import T5Config, make_encoder
from jaxgen.pretrained import save_t5


def test_a_folder_of_t5(tmp_path):
    pictures = load_captioned("shapes", size=16)
    captions = pictures.distinct("descriptive")
    config = T5Config(vocabulary=64, width=16, mlp_units=32, depth=1, heads=2, head_size=8)
    params = jax.jit(config.make_model().init)(jax.random.key(0), *config.example())["params"]
    params = nn.meta.unbox(params)
    save_t5(tmp_path, config, params)
    tokenizer = train_tokenizer(captions, 64)
    save_tokenizer(tokenizer, tmp_path / "tokenizer")

    flags = TextNetworkFlags(width=32, depth=1)
    encoder = encoder_of(str(tmp_path), flags, pictures)
    assert encoder.config == config
    longest = max(len(text.split()) for text in captions)
    assert encoder.tokenizer.length == longest + 2  # with start and end
    model = flags.config((16, 16, 3), "v", encoder)
    texts = as_texts(encoder.tokenizer, captions[:2])
    found = jax.jit(model.encode)({"encoder": encoder.params}, texts.ids_BL, texts.mask_BL)
    expected = jax.jit(make_encoder(config, params))(texts.ids_BL, texts.mask_BL)
    np.testing.assert_allclose(found["text_BNC"], expected.states_BLD, atol=1e-5)
    np.testing.assert_allclose(found["pooled_BC"], expected.pooled_BD, atol=1e-5)
    assert model.network.text_width == model.network.pooled_width == 16
