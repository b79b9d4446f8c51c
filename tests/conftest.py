"""What all tests share."""

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none; pytest counts it as deselected."""
    if torch.cuda.is_available():
        return
    config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("gpu")])
    items[:] = [item for item in items if not item.get_closest_marker("gpu")]
