"""A PEFT folder as one file: a zip of exactly its two files, nothing else, bounded."""

import io
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from fluvial.errors import ModelError, TooLargeError, UnsupportedError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
CONFIG_BYTES = 2**20
WEIGHTS_BYTES = 2**30
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(folder: Path, path: Path) -> None:
    """Write the files of a folder to a zip at `path`; the same files give the same bytes."""
    with ZipFile(path, "w", ZIP_STORED) as archive:
        for file in sorted(folder.iterdir()):
            archive.writestr(ZipInfo(file.name, _EPOCH), file.read_bytes())


def unpack(data: bytes, folder: Path) -> None:
    """Write the two files of a zip to `folder`.

    They may lie in one folder inside. Files beside them are refused, so that none is left out
    unseen. Raises ModelError for a zip that is damaged or not such a one, UnsupportedError for
    other files, TooLargeError for files over their limits, whatever size they claim.
    """
    try:
        with ZipFile(io.BytesIO(data)) as archive:
            for name, info in _choose(archive).items():
                limit_bytes = CONFIG_BYTES if name == CONFIG_FILE else WEIGHTS_BYTES
                (folder / name).write_bytes(_read(archive, info, limit_bytes=limit_bytes))
    except (BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"the zip is damaged, or of a kind not taken here: {error}") from None
    except Exception as error:
        # zlib.error and its like are of no common class.
        if isinstance(error, ModelError | TooLargeError | UnsupportedError):
            raise
        raise ModelError(f"the zip is damaged: {error}") from None


def _choose(archive: ZipFile) -> dict[str, ZipInfo]:
    found: dict[str, ZipInfo] = {}
    infos = [info for info in archive.infolist() if not info.is_dir()]
    for info in infos[:3]:
        name = info.filename.rsplit("/", 1)[-1]
        if name not in (CONFIG_FILE, WEIGHTS_FILE) or name in found:
            raise UnsupportedError(
                f"the zip holds {info.filename[:100]!r}; it may hold {CONFIG_FILE} and "
                f"{WEIGHTS_FILE} only"
            )
        found[name] = info
    if len(found) != 2:
        raise ModelError(f"the zip must hold {CONFIG_FILE} and {WEIGHTS_FILE}")
    return found


def _read(archive: ZipFile, info: ZipInfo, *, limit_bytes: int) -> bytes:
    """Read at most `limit_bytes`: what a zip says of sizes proves nothing."""
    with archive.open(info) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise TooLargeError(f"{info.filename[:100]!r} is over {limit_bytes:,} bytes")
    return data
