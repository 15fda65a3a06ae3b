"""The fixed text on which drift is measured: neutral, short, in several registers, two languages.

Figures of drift mean something only beside others of the same text, so its sha256 stands here;
another text is another probe.
"""

import hashlib
from pathlib import Path

from fluvial.errors import LearnerError

PROBE_FILE = Path(__file__).with_name("probe.txt")
PROBE_SHA256 = "cf84bf7af3ae17b20ff07ef992bb8b05e195d4f7c35be9e8e62864244c927d56"


def load_probe(path: Path = PROBE_FILE) -> str:
    """Return the probe: 512 to 768 tokens with the tokenizers of the catalogue.

    Raises LearnerError when the file is missing or is not the one that belongs to this version.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise LearnerError(f"{path} can't be read ({error.strerror}); install again") from None
    found = hashlib.sha256(raw).hexdigest()
    if found != PROBE_SHA256:
        raise LearnerError(f"{path} has sha256 {found}, not {PROBE_SHA256}; install again")
    return raw.decode("utf-8")
