"""Which attributes captioned shapes have: drawn at random, combinations held out of training.

Combinations of some attributes (of all of an object by default) are divided among the parts, so
that what validation and test show was never seen together in training, while each single value was.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int8, Int32

from jaxgen.data.batch_plan import permute
from jaxgen.data.captions.captioned_set import NOT_APPLICABLE
from jaxgen.data.captions.shape_vocabulary import OF_OBJECT, SECOND, ShapeVocabulary
from jaxgen.data.text.corpus import PARTS
from jaxgen.errors import InputError, check_share

_CHUNK = 8192  # candidates drawn at once, whatever their number: longer sets begin as shorter ones
_MOST_CHUNKS = 2000


def divide_combinations(
    vocabulary: ShapeVocabulary, combination: Sequence[str] = OF_OBJECT, share: float = 0.1
) -> Int8[np.ndarray, "..."]:
    """The part of each combination of values, the same on every machine.

    Args:
      vocabulary: Which values there are.
      combination: The attributes that are combined, of `OF_OBJECT`, background, direction, speed.
        With those of objects, both of two objects have combinations of the picture's part.
      share: Of all combinations, for validation and again for test; one each at least.

    Returns:
      An axis for each attribute of `combination`; 0, 1 and 2 are train, validation and test.

    Raises:
      InputError: An attribute is not there or twice, the combinations are too few, or the share is
        so large that a value would not be seen in training.
    """
    check_share("share", share)
    known = [name for name in (*OF_OBJECT, "background", "direction", "speed")]
    known = [name for name in known if name in vocabulary.values]
    if len(set(combination)) != len(combination) or not set(combination) <= set(known):
        raise InputError(
            f"combination is {tuple(combination)}, expected different ones of {', '.join(known)}"
        )
    shape = tuple(len(vocabulary.values[name]) for name in combination)
    total = math.prod(shape)
    part_N = np.zeros(total, np.int8)
    wanted = [max(1, round(share * total))] * 2
    seen = [np.full(size, total // size) for size in shape]  # in training, of each value
    for number in permute(np.arange(total), total, seed=0, epoch=0).tolist():
        values = np.unravel_index(number, shape)
        part = 2 if wanted[1] else 1
        if not sum(wanted) or any(
            count[value] <= 1 for count, value in zip(seen, values, strict=True)
        ):
            continue
        for count, value in zip(seen, values, strict=True):
            count[value] -= 1
        wanted[part - 1] -= 1
        part_N[number] = part
    if sum(wanted):
        raise InputError(
            f"combination is {tuple(combination)} with {total} combinations, too few to hold"
            f" {share:g} of them out twice while each value is seen in training"
        )
    return part_N.reshape(shape)


def draw_attributes(
    vocabulary: ShapeVocabulary,
    count: int,
    seed: int | Sequence[int] = 0,
    allowed: Callable[[Int32[np.ndarray, "N F"]], Bool[np.ndarray, "N"]] | None = None,
) -> Int32[np.ndarray, "N F"]:
    """Attributes drawn uniformly from those that can be; more of them begin with the same.

    Where pictures have one or two objects, half of them have two, whatever is allowed.

    Args:
      vocabulary: Which values there are.
      count: N.
      seed: All randomness follows from it.
      allowed: Which ones to keep; None: all.

    Raises:
      InputError: Next to none is kept.
    """
    seeds = (seed,) if isinstance(seed, int) else tuple(seed)
    number_N = np.random.default_rng((*seeds, 0)).integers(len(vocabulary.objects), size=count)
    code_NF = np.zeros((count, len(vocabulary.values)), np.int32)
    for number in range(len(vocabulary.objects)):
        generator = np.random.default_rng((*seeds, 1, number))
        chosen_N = number_N == number
        kept: list[np.ndarray] = []
        missing = int(chosen_N.sum())
        for _ in range(_MOST_CHUNKS):
            if not missing:
                break
            chunk_NF = _draw_chunk(vocabulary, number, generator)
            good_N = _can_be(vocabulary, chunk_NF)
            good_N &= True if allowed is None else allowed(chunk_NF)
            kept.append(chunk_NF[good_N][:missing])
            missing -= len(kept[-1])
        if missing:
            raise InputError(
                f"{_MOST_CHUNKS * _CHUNK} draws of {vocabulary.objects[number]} objects gave"
                f" {sum(map(len, kept))} that can be, expected {int(chosen_N.sum())}"
            )
        if kept:
            code_NF[chosen_N] = np.concatenate(kept)
    return code_NF


def _draw_chunk(
    vocabulary: ShapeVocabulary, number: int, generator: np.random.Generator
) -> Int32[np.ndarray, "N F"]:
    """Candidates of ``vocabulary.objects[number]`` objects each."""
    columns = vocabulary.columns
    sizes = [len(values) for values in vocabulary.values.values()]
    code_NF = generator.integers(sizes, size=(_CHUNK, len(sizes)), dtype=np.int32)
    if 2 not in vocabulary.objects:
        return code_NF
    code_NF[:, columns["objects"]] = number
    if vocabulary.objects[number] == 1:
        absent = [n for n in columns if n == "relation" or n.startswith(SECOND)]
        code_NF[:, [columns[name] for name in absent]] = NOT_APPLICABLE
        return code_NF
    names = ("place", "relation", "second_place")
    pairs = [list(map(vocabulary.code, names, pair)) for pair in vocabulary.pairs]
    pair_N3 = np.array(pairs, np.int32)[generator.integers(len(pairs), size=_CHUNK)]
    code_NF[:, [columns[name] for name in names]] = pair_N3
    return code_NF


def is_of_two(
    vocabulary: ShapeVocabulary, code_NF: Int32[np.ndarray, "N F"]
) -> Bool[np.ndarray, "N"]:
    """Whether pictures have two objects."""
    if 2 not in vocabulary.objects:
        return np.zeros(len(code_NF), bool)
    return np.array(vocabulary.objects)[code_NF[:, vocabulary.columns["objects"]]] == 2


def _can_be(
    vocabulary: ShapeVocabulary, code_NF: Int32[np.ndarray, "N F"]
) -> Bool[np.ndarray, "N"]:
    """No object has the colour of the background, and two objects are not alike."""
    codes = {name: code_NF[:, column] for name, column in vocabulary.columns.items()}
    behind = np.array([vocabulary.code("colour", value) for value in vocabulary.backgrounds])
    behind_N = np.where(behind < 0, len(vocabulary.colours), behind)[codes["background"]]
    good_N = codes["colour"] != behind_N
    if 2 in vocabulary.objects:
        good_N &= codes["second_colour"] != behind_N
        good_N &= (codes["shape"] != codes["second_shape"]) | (
            codes["colour"] != codes["second_colour"]
        )
    return good_N


def are_in_part(
    vocabulary: ShapeVocabulary,
    combination: Sequence[str],
    part_of: Int8[np.ndarray, "..."],
    part: str,
) -> Callable[[Int32[np.ndarray, "N F"]], Bool[np.ndarray, "N"]]:
    """Tells which attributes belong to a part: those all of whose combinations do.

    Args:
      vocabulary: What the codes mean.
      combination: The attributes that are combined.
      part_of: The part of each combination (`divide_combinations`).
      part: "train", "validation" or "test".
    """
    number = PARTS.index(part)

    def test(code_NF: Int32[np.ndarray, "N F"]) -> Bool[np.ndarray, "N"]:
        columns = [vocabulary.columns[name] for name in combination]
        good_N = np.asarray(part_of[tuple(code_NF[:, columns].T)] == number)
        if 2 in vocabulary.objects and set(combination) & set(OF_OBJECT):
            names = [SECOND + name if name in OF_OBJECT else name for name in combination]
            second_NF = code_NF[:, [vocabulary.columns[name] for name in names]]
            good_N &= ~is_of_two(vocabulary, code_NF) | (part_of[tuple(second_NF.T)] == number)
        return good_N

    return test
