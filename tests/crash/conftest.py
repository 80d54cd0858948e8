import os
from pathlib import Path

import pytest

from amqpbroker.testing.disk_shim import DiskShim, ShimError, build


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that stands between a process and the disk."""
    try:
        return build(tmp_path_factory.mktemp("shim"))
    except ShimError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))


@pytest.fixture
def shim(shim_library: Path, tmp_path: Path) -> DiskShim:
    return DiskShim(shim_library, tmp_path / "disk", tmp_path / "shim")
