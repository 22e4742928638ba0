"""One thread for every test: two beside another busy process are far slower than one."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="tinyzero-state-")  # not the user's own

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model."""
    import tiny

    from tinyzero import models

    folder = tmp_path_factory.mktemp("base")
    models.save_model(tiny.model(layers=1), tiny.tokenizer(), folder)
    return folder
