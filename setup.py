"""Compile the native operators into the wheel; all else is in pyproject.toml.

Without a C compiler, or with FLUVIAL_NO_NATIVE=1, the wheel carries the source only and the
operators are compiled at first use.
"""

import os
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))
from fluvial.native.compiler import compile_library, find_compiler

NATIVE = Path("fluvial/native")


class BuildWithNative(build_py):
    """Put a library beside the source, in what is built and not in the source tree."""

    def run(self) -> None:
        super().run()
        if self.editable_mode or not will_compile():
            return
        folder = Path(self.build_lib) / NATIVE
        for old in folder.glob("libfluvial-*.so"):
            old.unlink()
        compile_library(folder)


class NativeWheel(bdist_wheel):
    """Any Python 3 that is new enough, but this kind of machine only."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = not will_compile()

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


def will_compile() -> bool:
    return os.environ.get("FLUVIAL_NO_NATIVE") != "1" and find_compiler() is not None


class NativeDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return will_compile()


setup(
    cmdclass={"build_py": BuildWithNative, "bdist_wheel": NativeWheel},
    distclass=NativeDistribution,
)
