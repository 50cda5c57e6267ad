"""What a file is that is no safetensors file, told from its first bytes, and what to do with it."""

import pathlib
import zipfile

from jaxgen.files import LFS_POINTER, LFS_START

CONVERT = (
    "convert it once where torch is installed: "
    "safetensors.torch.save_file(torch.load(PATH, map_location='cpu', weights_only=True), "
    "'NAME.safetensors'), of the state dict alone where it holds more"
)

PICKLE = f"a PyTorch checkpoint or another pickle; {CONVERT}"

STARTS: dict[bytes, str] = {
    b"\x80": PICKLE,
    b"\x89HDF": "an HDF5 file; write its arrays with jaxgen.interop.safetensors.write_safetensors",
    b"\x93NUMPY": "one array of numpy; write it with jaxgen.interop.safetensors.write_safetensors",
    b"\x1f\x8b": "compressed by gzip; decompress it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it first",
    b"GGUF": "a GGUF file; convert it to safetensors first",
    LFS_START[:9]: LFS_POINTER,
    b"<": "a page of HTML or XML, perhaps in place of a download; fetch the file itself",
}
"""First bytes -> what such a file is, and what to do."""

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
"""What PyTorch's files are usually called."""


def describe_foreign(path: pathlib.Path, start: bytes) -> str | None:
    """What a file is and what to do with it; None for what is not known.

    Args:
      path: the file; of a zip archive the names in it are looked at.
      start: its first bytes, 9 of them.
    """
    if start.startswith(b"PK\x03\x04"):
        return _describe_zip(path)
    for known, what in STARTS.items():
        if start.startswith(known):
            return what
    return None


def pickles_in(folder: pathlib.Path) -> list[str]:
    """Names of files in a folder that are called as PyTorch's are."""
    return sorted(file.name for file in folder.iterdir() if file.suffix in PICKLE_SUFFIXES)


def _describe_zip(path: pathlib.Path) -> str:
    """torch.save and numpy.savez write zip archives, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return f"a damaged zip archive, perhaps a PyTorch checkpoint; if so, {CONVERT}"
    if any(name.endswith("data.pkl") for name in names):
        return f"a PyTorch checkpoint (pickle); {CONVERT}"
    if names and all(name.endswith(".npy") for name in names):
        return (
            "arrays of numpy (.npz); write them with jaxgen.interop.safetensors.write_safetensors"
        )
    return "a zip archive; unpack it first"
