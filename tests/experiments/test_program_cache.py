"""Where compiled programs are kept."""

from experiments.shared import program_cache
from experiments.shared.program_cache import cache_folder


def test_programs_are_kept_in_the_users_cache_unless_another_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    assert cache_folder("auto") == "elsewhere"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert cache_folder("auto").startswith(str(tmp_path / "jaxgen" / "programs_"))
    assert cache_folder("folder") == "folder"
    assert cache_folder("none") is None


def test_programs_of_other_machines_have_a_folder_of_their_own(monkeypatch):
    here = program_cache.user_folder()
    monkeypatch.setattr(program_cache, "_cores", lambda: 1_000)
    more_cores = program_cache.user_folder()
    monkeypatch.setattr(program_cache, "_processor", lambda: "another")
    assert len({here, more_cores, program_cache.user_folder()}) == 3
