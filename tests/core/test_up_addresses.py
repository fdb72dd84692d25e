"""Which address `kg up` names for its pages: one that the browser has, too."""

from __future__ import annotations

import socket

import pytest

from flows.cli.up.verb import is_loopback, ui_url


@pytest.mark.parametrize(
    ("host", "known_as", "leads_to"),
    [
        ("127.0.0.1", "db7.example", "http://127.0.0.1:4200"),
        ("::1", "db7.example", "http://[::1]:4200"),
        ("192.0.2.7", "localhost", "http://192.0.2.7:4200"),
        ("0.0.0.0", "db7.example", "http://db7.example:4200"),
        ("::", "db7.example", "http://db7.example:4200"),
        ("", "db7.example", "http://db7.example:4200"),
        ("0.0.0.0", "localhost", "http://db7:4200"),
        ("0.0.0.0", "localhost.localdomain", "http://db7:4200"),
    ],
)
def test_others_browsers_are_not_led_to_themselves(
    monkeypatch: pytest.MonkeyPatch, host: str, known_as: str, leads_to: str
) -> None:
    monkeypatch.delenv("PREFECT_UI_URL", raising=False)
    monkeypatch.setattr(socket, "getfqdn", lambda: known_as)
    monkeypatch.setattr(socket, "gethostname", lambda: "db7")
    assert ui_url(host, 4200) == leads_to


def test_behind_a_proxy_the_operator_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_UI_URL", "https://prefect.example")
    assert ui_url("0.0.0.0", 4200) == "https://prefect.example"


@pytest.mark.parametrize(("host", "own"), [("localhost", True), ("127.8.8.8", True), ("::1", True), ("db7", False)])
def test_what_only_this_machine_reaches(host: str, own: bool) -> None:
    assert is_loopback(host) is own
