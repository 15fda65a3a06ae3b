"""Describe what a measurement ran on, so that its figures can be placed."""

import importlib.metadata
import os
import platform
from typing import Any

from fluvial import __version__
from fluvial.engine.thread import count_usable

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")


def describe_machine() -> dict[str, Any]:
    """Return the processor, its cores and vector extensions, memory, system and load."""
    cpu = _read_fields("/proc/cpuinfo")
    memory = _read_fields("/proc/meminfo").get("MemTotal", "0 kB").split()[0]
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return {
        "processor": cpu.get("model name") or platform.processor() or platform.machine(),
        "cores": count_usable(),
        "vector_extensions": [flag for flag in _FLAGS if flag in flags],
        "memory_mb": round(int(memory) * 1024 / 1e6),
        "system": platform.platform(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def list_versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, of ours and of `packages` that are installed."""
    versions = {"python": platform.python_version(), "fluvial": __version__}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _read_fields(path: str) -> dict[str, str]:
    """Read `name : value` lines; of a name that comes again, the first counts."""
    fields: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                name, colon, value = line.partition(":")
                if colon:
                    fields.setdefault(name.strip(), value.strip())
    except OSError:
        return {}
    return fields
