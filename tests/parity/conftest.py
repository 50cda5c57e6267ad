"""Of all combinations of parameters, a plain run takes as many as it needs to see every value."""

import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before slow tests are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks a case slow where each of its values occurs in an earlier case of the same test."""
    seen: set[tuple[str, str, str]] = set()
    for item in items:
        if FOLDER in item.path.parents and isinstance(item, pytest.Function):
            test, *case = item.nodeid.split("[", 1)
            given = item.callspec.params if case else {}
            values = {(test, name, repr(value)) for name, value in given.items()}
            if values and values <= seen:
                item.add_marker(pytest.mark.slow)
            seen |= values
