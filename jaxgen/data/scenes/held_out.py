"""Which views of a capture test: every eighth, as published figures on such captures have it."""

from jaxgen.data.scenes.views import Views
from jaxgen.errors import InputError

EVERY = 8


def held_out_parts(views: Views, every: int = EVERY, where: str = "views") -> dict[str, Views]:
    """ "train" and "test": of the views in the order of their names the first, and every n-th.

    Args:
      views: All of a capture.
      every: n, 2 or more; 0 holds out none.
      where: What an error about their number begins with.

    Raises:
      InputError: Another number, or nothing would be left to train on.
    """
    if every < 0 or every == 1:
        raise InputError(f"every is {every}, expected 0, or 2 or more")
    order = sorted(range(len(views)), key=lambda i: views.names[i])
    if not every:
        return {"train": views.take(order)}
    if len(order) < 2:
        raise InputError(
            f"{where}: {len(order)} view, expected 2 or more to hold one out for tests"
        )
    test, train = order[::every], [index for i, index in enumerate(order) if i % every]
    return {"train": views.take(train), "test": views.take(test)}
