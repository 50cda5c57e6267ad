"""Settings for every test: eight simulated CPU devices, and real data where a user has it."""

import os
import pathlib

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The programs of tests are small and run a few times: what counts is how fast they are built. By the
# older emitters of fusions, one program on one thread, that is twice as fast. The environment may
# ask for others.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1 "
    + os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".jax_cache")
)
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
