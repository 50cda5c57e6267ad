"""Captions that leave out some attributes and say some wrong, as those of the web do.

What a captioner that relabels a set is trained against: the pictures and their true attributes
stay, what the captions say of them does not.
"""

import numpy as np
from jaxtyping import Int32

from jaxgen.data.captions.captioned_set import NOT_APPLICABLE, CaptionedSet
from jaxgen.data.captions.shape_captions import write_captions
from jaxgen.data.captions.shape_vocabulary import ShapeVocabulary
from jaxgen.errors import InputError, check_share


def damage_attributes(
    vocabulary: ShapeVocabulary,
    code_NF: Int32[np.ndarray, "N F"],
    *,
    missing: float = 0.5,
    wrong: float = 0.2,
    seed: int = 0,
) -> Int32[np.ndarray, "N F"]:
    """Attributes of which some are missing and some are wrong.

    Of all that the captions of these pictures say together, exactly the given shares (rounded to
    whole attributes), at random; how many objects there are stays right.

    Args:
      vocabulary: What the codes mean.
      code_NF: The true attributes.
      missing: Share of the attributes that become `NOT_APPLICABLE`.
      wrong: Share of the attributes that become another value, each other one as likely.
      seed: All randomness follows from it.

    Raises:
      InputError: A share is outside [0, 1], or both are more than 1 together.
    """
    check_share("missing", missing)
    check_share("wrong", wrong)
    if missing + wrong > 1:
        raise InputError(f"missing is {missing} and wrong {wrong}, expected 1 or less together")
    sizes_F = np.array([len(values) for values in vocabulary.values.values()])
    said_F = np.array([size > 1 and name != "objects" for name, size in _sizes(vocabulary)])
    row_M, column_M = np.nonzero(said_F & (code_NF != NOT_APPLICABLE))
    generator = np.random.default_rng(seed)
    order_M = generator.permutation(len(row_M))
    first, last = round(missing * len(row_M)), round((missing + wrong) * len(row_M))
    gone, changed = order_M[:first], order_M[first:last]
    damaged_NF = code_NF.copy()
    damaged_NF[row_M[gone], column_M[gone]] = NOT_APPLICABLE
    place, size = (row_M[changed], column_M[changed]), sizes_F[column_M[changed]]
    damaged_NF[place] = (code_NF[place] + 1 + generator.integers(size - 1)) % size
    return damaged_NF


def _sizes(vocabulary: ShapeVocabulary) -> list[tuple[str, int]]:
    return [(name, len(values)) for name, values in vocabulary.values.items()]


def with_damaged_captions(
    images: CaptionedSet,
    vocabulary: ShapeVocabulary,
    *,
    missing: float = 0.5,
    wrong: float = 0.2,
    seed: int = 0,
) -> CaptionedSet:
    """The same pictures and attributes with damaged captions, short and descriptive ones.

    Args:
      images: Captioned shapes.
      vocabulary: What their codes mean.
      missing: See `damage_attributes`.
      wrong: See `damage_attributes`.
      seed: See `damage_attributes`.

    Raises:
      InputError: As `damage_attributes`; or the attributes are not those of the vocabulary.
    """
    if images.attributes is None or dict(images.attributes.values) != vocabulary.values:
        raise InputError(
            f"{images.name}: other attributes than the vocabulary's, expected"
            f" {', '.join(vocabulary.values)} with its values"
        )
    damaged_NF = damage_attributes(
        vocabulary, images.attributes.codes, missing=missing, wrong=wrong, seed=seed
    )
    return images.with_captions(
        write_captions(vocabulary, damaged_NF), write_captions(vocabulary, damaged_NF, short=True)
    )
