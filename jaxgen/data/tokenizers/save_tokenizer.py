"""Writing the folder of a tokenizer, which transformers opens too."""

import json
import pathlib
from typing import Any

from jaxgen.data.archives import Path
from jaxgen.data.tokenizers.json_vocabulary import JsonVocabulary
from jaxgen.data.tokenizers.open_tokenizer import JSON_FILE, MODEL_FILE
from jaxgen.data.tokenizers.sentence_piece_vocabulary import SentencePieceVocabulary
from jaxgen.data.tokenizers.tokenizer import Tokenizer
from jaxgen.data.tokenizers.tokenizer_settings import CONFIG_FILE
from jaxgen.errors import InputError
from jaxgen.files import as_path, replacing
from jaxgen.text_rules import encode_text


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> list[pathlib.Path]:
    """Writes tokenizer.json (or spiece.model) and tokenizer_config.json.

    `open_tokenizer` gives the same ids, padding and length; cleaning is no part of the files and is
    named again where it is opened.

    Args:
      tokenizer: What `open_tokenizer` or `train_tokenizer` gave.
      folder: Made where it does not exist.

    Returns:
      The files written.

    Raises:
      InputError: Its vocabulary is of a class of one's own.
    """
    target = as_path(folder)
    vocabulary = tokenizer.vocabulary
    config: dict[str, Any] = {"model_max_length": tokenizer.length}
    if isinstance(vocabulary, JsonVocabulary):
        name, content = JSON_FILE, encode_text(_definition(tokenizer, vocabulary), JSON_FILE)
        spellings = {i: token for token, i in vocabulary.ids.items()}
        config["tokenizer_class"] = (
            "CLIPTokenizer" if vocabulary.ends_words else "PreTrainedTokenizerFast"
        )
        unknown = vocabulary.definition["model"].get("unk_token")
        config["unk_token"] = unknown
    elif isinstance(vocabulary, SentencePieceVocabulary):
        name, content = MODEL_FILE, vocabulary.model
        spellings = {i: token for token, i in vocabulary.special_tokens.items()}
        config["extra_ids"] = vocabulary.extra_ids
        if vocabulary.as_t5:  # whose unknown piece is 2, which that class takes for granted
            config["tokenizer_class"] = "T5Tokenizer"
    else:
        raise InputError(f"the vocabulary is a {type(vocabulary).__name__}, expected one of a file")
    places = (("bos", tokenizer.start), ("eos", tokenizer.end), ("pad", tokenizer.pad))
    config |= {f"{place}_token": spellings[i] for place, i in places if i is not None}
    target.mkdir(parents=True, exist_ok=True)
    with replacing(target / CONFIG_FILE) as handle:
        handle.write(json.dumps(config, indent=2).encode() + b"\n")
        with replacing(target / name) as vocabulary_handle:
            vocabulary_handle.write(content)
    return [target / name, target / CONFIG_FILE]


def _definition(tokenizer: Tokenizer, vocabulary: JsonVocabulary) -> str:
    """The content with the tokens around a text, which transformers reads there."""
    spellings = {i: token for token, i in vocabulary.ids.items()}
    around = [(i, spellings[i]) for i in (tokenizer.start, tokenizer.end) if i is not None]
    items: list[dict[str, Any]] = [
        {"SpecialToken": {"id": token, "type_id": 0}} for _, token in around
    ]
    place = 1 if tokenizer.start is not None else 0
    items[place:place] = [{"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"Sequence": {"id": "B", "type_id": 0}}]
    processor = {
        **{"type": "TemplateProcessing", "single": items, "pair": [*items, *second]},
        "special_tokens": {
            token: {"id": token, "ids": [i], "tokens": [token]} for i, token in around
        },
    }
    return json.dumps({**vocabulary.definition, "post_processor": processor}, ensure_ascii=False)
