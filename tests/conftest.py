"""Settings and fixtures of all tests.

Every test uses one thread: with two, a test is much slower if another process is busy.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# keep away from the user's own state
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="tinyzero-state-")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random model."""
    import tiny

    from tinyzero import models

    folder = tmp_path_factory.mktemp("base")
    models.save_model(tiny.model(layers=1), tiny.tokenizer(), folder)
    return folder
