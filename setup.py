"""The native kernel, which pyproject.toml can't describe: an extension that may fail to build without harm."""

from pathlib import Path

from setuptools import Extension, setup

KERNEL = Path("loader/kernel")

setup(
    ext_modules=[
        Extension(
            "understudy.loader._kernel",
            sources=sorted(str(path) for path in KERNEL.glob("*.cpp")),
            depends=sorted(str(path) for path in KERNEL.glob("*.h")),
            extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        )
    ]
)
