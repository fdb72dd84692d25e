"""Who has to type the environment's name before a rollback."""

from __future__ import annotations

import pytest

from flows import confirmation
from tasks.core.errors import NotConfirmed


@pytest.mark.parametrize("given", ["", "Dev", "dev ", "production", "yes"])
def test_a_form_is_taken_by_the_letter(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setattr(confirmation, "_of_deployment", lambda: True)
    confirmation.typed("dev", "dev")
    with pytest.raises(NotConfirmed, match="nothing was touched") as refused:
        confirmation.typed("dev", given)
    assert "type dev into" in (refused.value.hint or "")


def test_where_no_form_has_asked_nothing_need_be_typed_but_nothing_wrong_either() -> None:
    confirmation.typed("dev", "")
    with pytest.raises(NotConfirmed):
        confirmation.typed("dev", "staging")
