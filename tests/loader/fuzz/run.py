"""Fuzz the native kernel: `python tests/loader/fuzz/run.py [--inputs N]` needs clang++, nothing else.

What breaks it is left in finds/, from where tests/loader/test_native_bad_bytes.py takes it for good. Prints how many
inputs were tried. Runs on one core, nicely.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
KERNEL = HERE.parents[2] / "loader" / "kernel"
FINDS = HERE / "finds"
PARSERS = ("jpeg_header", "jpeg", "huffman", "kernel")  # what looks at the bytes that come in


def main() -> None:
    """Build the target, make the seeds, run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=int, default=0, help="stop after so long, if before")
    parser.add_argument("--work", type=Path, help="keep the program and its corpus here (default: a temporary folder)")
    arguments = parser.parse_args()
    compiler = shutil.which("clang++")
    if compiler is None:
        sys.exit("fuzzing needs clang++ with libFuzzer: apt-get install clang")
    os.nice(10)
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        run(compiler, work, arguments.inputs, arguments.seconds)


def run(compiler: str, work: Path, inputs: int, seconds: int) -> None:
    program, corpus = work / "fuzz_kernel", work / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    FINDS.mkdir(exist_ok=True)
    sys.path.insert(0, str(HERE))
    from seeds import seeds

    for name, data in seeds():
        (corpus / name).write_bytes(data)
    flags = ["-std=c++17", "-O2", "-g", "-pthread", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
    objects: list[str] = []
    for source in [HERE / "fuzz_kernel.cpp", *sorted(KERNEL.glob("*.cpp"))]:
        objects.append(str(work / f"{source.stem}.o"))
        # Where pixels are compared there is nothing to learn for the fuzzer, and to watch it takes most of the time.
        watch = [] if source.stem in PARSERS else ["-fno-sanitize-coverage=trace-cmp"]
        subprocess.run([compiler, *flags, *watch, "-c", str(source), "-o", objects[-1]], check=True)
    subprocess.run([compiler, *flags, *objects, "-o", str(program)], check=True)
    limits = [
        f"-runs={inputs}",
        f"-max_total_time={seconds}",
        "-max_len=8192",
        "-timeout=600",
        "-report_slow_units=600",
        "-rss_limit_mb=1024",
    ]
    command = [str(program), str(corpus), str(FINDS), f"-artifact_prefix={FINDS}/", "-print_final_stats=1", *limits]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
