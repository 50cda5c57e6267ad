"""Tokenizers: texts to padded ids, masks and spans of words, for models that read text.

`open_tokenizer` opens the files that models come with, `train_tokenizer` makes a vocabulary from
texts in memory. Both need the extra ``jaxgen[text]``; importing this package does not.
"""

from jaxgen.data.tokenizers.clean_text import clean_openai
from jaxgen.data.tokenizers.open_tokenizer import open_tokenizer
from jaxgen.data.tokenizers.prompt_weights import encode_weighted, parse_weights
from jaxgen.data.tokenizers.save_tokenizer import save_tokenizer
from jaxgen.data.tokenizers.text_checks import check_not_empty, check_vocabulary
from jaxgen.data.tokenizers.tokenized import Tokenized
from jaxgen.data.tokenizers.tokenizer import Tokenizer
from jaxgen.data.tokenizers.train_tokenizer import train_tokenizer

__all__ = [
    "Tokenized",
    "Tokenizer",
    "check_not_empty",
    "check_vocabulary",
    "clean_openai",
    "encode_weighted",
    "open_tokenizer",
    "parse_weights",
    "save_tokenizer",
    "train_tokenizer",
]
