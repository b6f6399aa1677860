"""What every test gets: a quiet offline environment, one thread per process, swarm tests first.

The environment is set here, before any test module imports torch or hivemind; processes that
tests start inherit it.
"""

from __future__ import annotations

import os

os.environ.update(
    OMP_NUM_THREADS="1",  # two workers share the machine; more threads only fight
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",  # nothing may be fetched
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    MPLBACKEND="Agg",
    NO_COLOR="1",
    PYTHONHASHSEED=os.environ.get("PYTHONHASHSEED", "0"),
)
for secret in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
    os.environ.pop(secret, None)  # a test never spends anybody's money
os.environ.pop("ARES_DATABASE_URL", None)  # nor touches anybody's database

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "ares",
    deadline=None,  # the machine may be busy with a swarm
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,  # the same examples everywhere; set HYPOTHESIS_PROFILE=search for others
    print_blob=True,
)
settings.register_profile("search", parent=settings.get_profile("ares"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ares"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run swarm and web tests first: they take the longest."""
    items.sort(key=lambda item: 0 if _is_slow(item) else 1)


def _is_slow(item: pytest.Item) -> bool:
    if item.get_closest_marker("swarm") or item.get_closest_marker("web"):
        return True
    return item.path.parent.name in {"swarm", "web"}


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
