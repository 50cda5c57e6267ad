"""What many runs of experiments in tests share."""

import pytest

from experiments.shared import classifiers


@pytest.fixture
def short_classifiers(monkeypatch):
    """Classifiers that evaluate samples are trained for a few updates: what they say is no news."""
    for name in ("FEWEST_STEPS", "MOST_STEPS"):
        monkeypatch.setattr(classifiers, name, 8)
