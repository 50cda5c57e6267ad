"""Small files in the formats that the readers take."""

import pathlib
import zipfile
from collections.abc import Mapping

BROWN = {
    "brown/ca02": "\n\n\tSunday/nr came/vbd ./.\n\n",
    "brown/ca01": "\n\tThe/at Jury/nn-tl said/vbd either/or/cc ./.\nIt/pps did/dod ./.\n\n"
    "\n\tSo/rb ./.",
    "brown/cr09": "Atlanta's/np$ ``/`` end/nn ''/''\n",
    "brown/cats.txt": "ca01 news\nca02 news\ncr09 humor\n",
    "brown/README": "about\n",
}
"""Three texts: ca01 has two paragraphs, the first with two sentences; the others one each."""

PTB = {
    "ptb.train.txt": " the cat <unk> N \n the dog \n" * 5,
    "ptb.valid.txt": " a dog \n",
    "ptb.test.txt": " the end \n\n",
}


def write_zip(path: pathlib.Path, files: Mapping[str, str | bytes]) -> pathlib.Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: pathlib.Path, files: Mapping[str, str | bytes]) -> pathlib.Path:
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
