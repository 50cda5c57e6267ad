"""Text, images and other data: readers, vocabularies, splits and deterministic batches.

`load_corpus` is the front door for text, `load_images` the one for images. `jaxgen.data.pipeline`
(grain) makes batches of records and is imported by itself.
"""

from jaxgen.data.batch_plan import BatchPlan, trainable_span, windows_at
from jaxgen.data.images.image_files import ImageFolder, open_image_folder, read_image
from jaxgen.data.images.image_set import ImageSet, batch_at, from_unit, make_transform, to_unit
from jaxgen.data.images.load_images import load_images
from jaxgen.data.text.brown import read_brown
from jaxgen.data.text.builtin_text import read_builtin
from jaxgen.data.text.corpus import (
    Corpus,
    Spans,
    TokenStream,
    make_corpus,
    spans_by_fraction,
    spans_by_size,
)
from jaxgen.data.text.load_corpus import load_corpus
from jaxgen.data.text.plain_text import read_plain_text, tokenise
from jaxgen.data.text.tfds_text import read_tfds
from jaxgen.data.text.token_files import read_token_files
from jaxgen.data.text.vocabulary import UNKNOWN, Vocabulary, count_vocabulary

__all__ = [
    "UNKNOWN",
    "BatchPlan",
    "Corpus",
    "ImageFolder",
    "ImageSet",
    "Spans",
    "TokenStream",
    "Vocabulary",
    "batch_at",
    "count_vocabulary",
    "from_unit",
    "load_corpus",
    "load_images",
    "make_corpus",
    "make_transform",
    "open_image_folder",
    "read_brown",
    "read_builtin",
    "read_image",
    "read_plain_text",
    "read_tfds",
    "read_token_files",
    "spans_by_fraction",
    "spans_by_size",
    "to_unit",
    "tokenise",
    "trainable_span",
    "windows_at",
]
