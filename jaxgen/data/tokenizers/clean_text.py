"""The cleaning of texts that OpenAI's CLIP does before it looks for tokens."""

import html
import re

from jaxgen.data.tokenizers.tokenizer_packages import import_ftfy


def clean_openai(text: str) -> str:
    """A text as OpenAI's CLIP sees it (openai/CLIP `simple_tokenizer.py`, basic_clean and after).

    `ftfy.fix_text` (curly quotes straight, ligatures apart, wrong encodings mended), HTML entities
    decoded twice, each run of white space one blank, none at the ends, lower case.

    Raises:
      InputError: ftfy is not installed.
    """
    mended = html.unescape(html.unescape(import_ftfy().fix_text(text)))
    return re.sub(r"\s+", " ", mended.strip()).strip().lower()
