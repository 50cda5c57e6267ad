"""Settings for every test: eight simulated CPU devices, and real data where a user has it."""

import gc
import importlib.metadata
import os
import pathlib

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The programs of tests are small and run a few times: what counts is how fast they are built. The
# environment may ask for another level. By the older emitters of fusions, on one thread, it takes
# half of the time; where later versions do not know these flags, they end the process.
OLDER_EMITTERS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
KNOWN = importlib.metadata.version("jaxlib").startswith("0.10.")
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 "
    + OLDER_EMITTERS * KNOWN
    + os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".jax_cache")
)
# Tracing is most of the time of many tests: places in the source are not written into programs.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
gc.set_threshold(50_000, 20, 50)  # traces are many objects, few of them garbage
# The workers, and the programs that tests start, share what one of them has compiled.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

pytest_plugins = ["tests.compiled_programs", "tests.plain_cases", "tests.shapes"]


@pytest.fixture(scope="session")
def data_folder() -> pathlib.Path:
    """The folder of real data sets that JAXGEN_DATA names; the test is skipped without it."""
    name = os.environ.get("JAXGEN_DATA")
    if not name or not pathlib.Path(name).is_dir():
        pytest.skip("JAXGEN_DATA does not name a folder of real data sets (brown, ptb, ...)")
    return pathlib.Path(name)
