"""What all tests share: options, markers whose skips can be made failures, the real videos, corpora made by code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from understudy.shards.kinds import Codec

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

VIDEOS = Path(__file__).parents[2] / "shared" / "videos"
SECRET = b"a secret for tests, long enough"

MakeCorpus = Callable[..., Path]

# The same examples each time, and none refused for being slow: what fails must be the code, and not the machine.
# To look further: --hypothesis-profile=default
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """A machine that is meant to have a GPU, an S3 server or Ray must not pass by skipping."""
    report = yield
    if item.get_closest_marker("slow") and not item.config.getoption("--slow"):
        return report
    for marker in ("gpu", "s3", "ray"):
        required = os.environ.get(f"UNDERSTUDY_REQUIRE_{marker.upper()}") == "1"
        if report.skipped and required and item.get_closest_marker(marker):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            report.outcome = "failed"
            report.longrepr = f"UNDERSTUDY_REQUIRE_{marker.upper()}=1, but: {reason}"
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no NVIDIA GPU")


@pytest.fixture(scope="module", autouse=True)
def own_accelerate_state() -> Iterator[None]:
    """Accelerate keeps the settings of a process's first Accelerator and refuses another's; a module starts anew."""
    yield
    if "accelerate.state" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def videos() -> Path:
    """The folder of real videos with its manifest.csv, which does not belong to the checkout."""
    if not (VIDEOS / "manifest.csv").is_file():
        pytest.skip(f"the real videos are not there ({VIDEOS})")
    return VIDEOS


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A function (endpoint, key, secret, token) that points boto3 there for this test, whatever the machine has."""
    from understudy.shards import s3

    def point(endpoint: str, key: str = "SOMEKEYID", secret: str = "somesecret", token: str | None = None) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        values = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }
        for name, value in {**values, **({"AWS_SESSION_TOKEN": token} if token else {})}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(s3, "_clients", {})
        monkeypatch.setattr(s3, "_signing", False)

    return point


@pytest.fixture(scope="session")
def make_corpus() -> MakeCorpus:
    """A function (path, samples, ...) that packs synthetic clips and returns the corpus folder."""
    from fake_readers import read_moving_bar  # pyright: ignore[reportMissingImports]

    from understudy.shards.pack import PackConfig, pack
    from understudy.shards.sources import Source

    def make(
        path: Path,
        samples: int,
        *,
        codec: Codec = "mjpeg",
        classes: Sequence[str] = ("walk", "run", "wave"),
        samples_per_shard: int = 8,
        frames: int = 12,
        size: tuple[int, int] = (64, 48),
        name: str = "tiny",
    ) -> Path:
        sources = [Source(f"{classes[i % len(classes)]}/{i}.mp4", i % len(classes)) for i in range(samples)]
        config = PackConfig(
            name=name,
            kind="synthetic",
            classes=tuple(classes),
            licence="CC0-1.0",
            secret=SECRET,
            codec=codec,
            short_side=min(size),
            samples_per_shard=samples_per_shard,
        )
        read = partial(read_moving_bar, frames=frames, width=size[0], height=size[1])
        pack(sources, read, path, config, workers=0, progress=False)
        return path

    return make
