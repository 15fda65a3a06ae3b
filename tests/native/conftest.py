import platform
from pathlib import Path

import pytest


def list_variants() -> list[str]:
    """Name the variants of kernels that this machine can run."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return ["plain"]
    flags = set(Path("/proc/cpuinfo").read_text().split())
    avx2 = {"avx2", "fma"} <= flags
    avx512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512vbmi"} <= flags
    return [*(["avx512"] if avx2 and avx512 else []), *(["avx2"] if avx2 else []), "plain"]


@pytest.fixture(params=["avx512", "avx2", "plain"])
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sessions opened during the test use these kernels."""
    if request.param not in list_variants():
        pytest.skip(f"this machine does not run {request.param}")
    monkeypatch.setenv("FLUVIAL_KERNELS", request.param)
    return request.param
