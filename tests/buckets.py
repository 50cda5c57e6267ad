"""Buckets for tests: gs:// and s3:// of this process lie in a folder of this machine."""

import contextlib
import functools
import os
from unittest import mock

import fsspec
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from orbax.checkpoint._src.path import gcs_utils

SCHEMES = ("gs://", "s3://")


class FolderOfBuckets(LocalFileSystem):
    """What an object store can do, with ``gs://BUCKET/NAME`` in the file ``root/BUCKET/NAME``.

    Folders are there as soon as there is a file in them; files are written whole.
    """

    protocol = ("gs", "gcs", "s3")
    cachable = False
    root = ""

    def __init__(self, **kwargs):
        super().__init__()

    @classmethod
    def _strip_protocol(cls, path):
        path = os.fspath(path)
        for scheme in SCHEMES:
            path = path.removeprefix(scheme)
        path = path if path.startswith(cls.root) else f"{cls.root}/{path}"
        return super()._strip_protocol(path)

    def mkdir(self, path, create_parents=True, **kwargs):
        pass

    def makedirs(self, path, exist_ok=False):
        pass

    def glob(self, path, **kwargs):
        return [found.removeprefix(f"{self.root}/") for found in super().glob(path, **kwargs)]

    def open(self, path, mode="rb", **kwargs):
        assert set(mode) <= set("rwbt"), f"an object store knows no mode {mode}"
        if "w" in mode:
            super().makedirs(self._parent(path), exist_ok=True)
        return super().open(path, mode, **kwargs)


@contextlib.contextmanager
def buckets_in(folder):
    """All buckets in a folder, for epath (through fsspec) and for Orbax's arrays."""
    root = os.fspath(folder)
    filesystem = type("Filesystem", (FolderOfBuckets,), {"root": root})

    def kvstore(path):
        local = path.replace("gs://", f"{root}/")  # of a file with a name, else of a folder
        return {"driver": "file", "path": local if local.endswith("_sharding") else f"{local}/"}

    epath = backend.fsspec_backend
    with contextlib.ExitStack() as stack:
        patch = lambda *what: stack.enter_context(mock.patch.object(*what))  # noqa: E731
        patch(fsspec, "get_filesystem_class", lambda scheme: filesystem)
        patch(epath, "_get_filesystem", functools.cache(lambda name: filesystem()))
        patch(gcs_utils, "get_kvstore_for_gcs", kvstore)
        patch(gcs_utils, "get_bucket", lambda name: None)
        yield
