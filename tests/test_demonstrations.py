"""Answers that are learned as they stand."""

from pathlib import Path

import pytest

from troupe.errors import UserError
from troupe.language.models import open_folder
from troupe.language.small import SmallSettings, build
from troupe.prompts import Prompt
from troupe_actors.demonstrations import demonstrate


def test_an_answer_as_a_completion(tmp_path: Path) -> None:
    build(tmp_path / "model", SmallSettings(hidden=16, layers=1, heads=2), 1)
    folder = open_folder(tmp_path / "model")
    whole = demonstrate(Prompt(3, "?", "ab"), folder, 7, 8)
    assert whole.tokens.tolist() == [97, 98, 257]
    assert (whole.id, whole.finish) == (3, "stop")
    assert whole.log_prob.tolist() == [0.0] * 3
    assert whole.version.tolist() == [7] * 3
    cut = demonstrate(Prompt(3, "?", "ab"), folder, 7, 2)
    assert (cut.tokens.tolist(), cut.finish) == ([97, 98], "length")
    assert demonstrate(Prompt(0, "?", 72), folder, 0, 8).tokens.tolist() == [55, 50, 257]
    with pytest.raises(UserError, match=r"row 4: None is not a text to be learned"):
        demonstrate(Prompt(4, "?"), folder, 0, 8)
