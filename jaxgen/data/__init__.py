"""Text, images, videos, scenes: readers, vocabularies, splits and deterministic batches.

`load_corpus` is the front door for text, `load_images` the one for images, `load_scene` the one for
posed photographs, `load_videos` the one for videos, `load_captioned` the one for pictures and clips
with captions. `jaxgen.data.pipeline` (grain) makes batches of records and is imported by itself.
"""

from jaxgen.data.batch_plan import BatchPlan, trainable_span, windows_at
from jaxgen.data.captions.caption_batches import captioned_batch_at, tokenise_captions
from jaxgen.data.captions.captioned_set import CaptionedSet
from jaxgen.data.captions.load_captioned import load_captioned
from jaxgen.data.images.image_files import ImageFolder, open_image_folder, read_image
from jaxgen.data.images.image_set import ImageSet, batch_at, make_transform
from jaxgen.data.images.load_images import load_images
from jaxgen.data.scenes.load_scene import load_scene
from jaxgen.data.scenes.views import Scene, Views
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
from jaxgen.data.text.sentence_files import (
    encode_sentences,
    read_sentences,
    sentence_vocabulary,
)
from jaxgen.data.text.tfds_text import read_tfds
from jaxgen.data.text.token_files import read_token_files
from jaxgen.data.text.vocabulary import UNKNOWN, Vocabulary, count_vocabulary
from jaxgen.data.video.load_videos import load_videos
from jaxgen.data.video.video_files import Video, read_clip, read_video, write_video
from jaxgen.data.video.video_folder import VideoFolder, open_video_folder
from jaxgen.pixels import from_unit, to_unit

__all__ = [
    "UNKNOWN",
    "BatchPlan",
    "CaptionedSet",
    "Corpus",
    "ImageFolder",
    "ImageSet",
    "Scene",
    "Spans",
    "TokenStream",
    "Video",
    "VideoFolder",
    "Views",
    "Vocabulary",
    "batch_at",
    "captioned_batch_at",
    "count_vocabulary",
    "encode_sentences",
    "from_unit",
    "load_captioned",
    "load_corpus",
    "load_images",
    "load_scene",
    "load_videos",
    "make_corpus",
    "make_transform",
    "open_image_folder",
    "open_video_folder",
    "read_brown",
    "read_builtin",
    "read_clip",
    "read_image",
    "read_plain_text",
    "read_sentences",
    "read_tfds",
    "read_token_files",
    "read_video",
    "sentence_vocabulary",
    "spans_by_fraction",
    "spans_by_size",
    "to_unit",
    "tokenise",
    "tokenise_captions",
    "trainable_span",
    "windows_at",
    "write_video",
]
