"""Settings for every test: eight simulated CPU devices, and real data where a user has it."""

import os
import pathlib

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".jax_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


@pytest.fixture(scope="session")
def data_folder() -> pathlib.Path:
    """The folder of real data sets that JAXGEN_DATA names; the test is skipped without it."""
    name = os.environ.get("JAXGEN_DATA")
    if not name or not pathlib.Path(name).is_dir():
        pytest.skip("JAXGEN_DATA does not name a folder of real data sets (brown, ptb, ...)")
    return pathlib.Path(name)
