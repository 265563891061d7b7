"""Kept engines: which of them make room for new ones, and that processes may drop and use them at the same time."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from cdal_sdk.engines import ENGINES, EngineCache, cache
from cdal_sdk.errors import EngineError, UsageError
from tests.engines.conftest import builder, target

SIZE = 10_000  # of an engine, beside which its description is small


def keep(kept: EngineCache, name: str, age: float = 0, size: int = SIZE) -> None:
    def fill(path: Path) -> str:
        path.write_bytes(bytes(size))
        return "it agrees"

    description = kept.add({"engine": name}, ".fake", fill).with_name("engine.json")
    if age:
        os.utime(description, (time.time() - age,) * 2)


def held(kept: EngineCache) -> set[str]:
    """What is there, without using it."""
    return {name for name in "abcdef" if (kept.folder / cache.identity({"engine": name})).is_dir()}


def test_what_was_used_least_recently_makes_room(tmp_path) -> None:
    kept = EngineCache(tmp_path, limit=int(3.5 * SIZE))
    for name, age in (("b", 20), ("a", 30), ("c", 10)):  # not in the order of their use
        keep(kept, name, age)
    assert held(kept) == {"a", "b", "c"}
    keep(kept, "d", 5)
    assert held(kept) == {"b", "c", "d"}
    assert kept.find({"engine": "b"}, ".fake"), "reading counts as use"
    keep(kept, "e")
    assert held(kept) == {"b", "d", "e"}
    assert kept.verdict({"engine": "e"}) is None
    assert not list(tmp_path.glob(".*")), "nothing is left of the others"


def test_the_newest_stays_even_if_it_exceeds_the_limit_alone(tmp_path) -> None:
    kept = EngineCache(tmp_path, limit=2 * SIZE)
    keep(kept, "a", age=-100)  # used later, by a clock that is wrong
    keep(kept, "b", size=3 * SIZE)
    assert held(kept) == {"b"}


def test_without_a_limit_all_stay(tmp_path) -> None:
    for name in "abc":
        keep(EngineCache(tmp_path, limit=0), name)
    assert held(EngineCache(tmp_path)) == {"a", "b", "c"}


def test_verdicts_other_folders_and_builds_at_work_are_left_alone(tmp_path) -> None:
    kept = EngineCache(tmp_path, limit=1)
    kept.remember({"engine": "z"}, passed=False, figures="it disagrees")
    inner = EngineCache(tmp_path / "benchmark", limit=0)
    keep(inner, "a")
    for name, age in ((".building-now", 3600), (".building-killed", 90_000), (".dropped-killed", 90_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "engine.json").touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    keep(kept, "b")
    assert kept.verdict({"engine": "z"}) == (False, "it disagrees")
    assert held(inner) == {"a"}
    assert [path.name for path in tmp_path.glob(".*")] == [".building-now"]


def test_one_that_cannot_be_dropped_does_no_harm(tmp_path, monkeypatch) -> None:
    """As on Windows, while a process has it open."""
    kept = EngineCache(tmp_path, limit=SIZE)
    keep(kept, "a", 10)
    replace = Path.replace

    def refuse(path: Path, to: Path) -> Path:
        if to.name.startswith(".dropped"):
            raise PermissionError("it is open")
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", refuse)
    keep(kept, "b")
    assert kept.find({"engine": "a"}, ".fake")
    assert kept.find({"engine": "b"}, ".fake")


def test_one_that_is_dropped_while_it_is_looked_up_is_not_found(tmp_path, monkeypatch) -> None:
    kept = EngineCache(tmp_path, limit=SIZE)
    keep(kept, "a")
    read = cache.sha256

    def too_late(path: Path) -> str:
        monkeypatch.setattr(cache, "sha256", read)
        keep(kept, "b")
        return read(path)

    monkeypatch.setattr(cache, "sha256", too_late)
    assert kept.find({"engine": "a"}, ".fake") is None
    assert held(kept) == {"b"}


def test_one_that_is_dropped_while_it_is_measured_is_nobody_s_error(tmp_path, monkeypatch) -> None:
    kept, listed = EngineCache(tmp_path), Path.iterdir
    keep(kept, "a")
    monkeypatch.setattr(Path, "iterdir", lambda path: (cache._discard(path), listed(path))[1])
    keep(kept, "b")
    assert not held(kept)


def test_one_that_others_add_and_drop_while_it_is_added(tmp_path, monkeypatch) -> None:
    kept, discard, read = EngineCache(tmp_path), cache._discard, cache.sha256

    def dropped(path: Path) -> str:  # found in its place, and gone when it is read
        monkeypatch.setattr(cache, "sha256", read)
        discard(path.parent)
        return read(path)

    def added(entry: Path) -> None:  # and there again, just before the next attempt
        monkeypatch.setattr(cache, "_discard", discard)
        keep(kept, "a")

    def fill(path: Path) -> str:
        path.write_bytes(b"late")
        keep(kept, "a")
        return "it agrees"

    monkeypatch.setattr(cache, "_discard", added)
    described = iter([read, read, dropped])  # by both that add it, and then by the one that is too late
    monkeypatch.setattr(cache, "sha256", lambda path: next(described)(path))
    kept.add({"engine": "a"}, ".fake", fill)
    assert held(kept) == {"a"}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", [kind.name for kind in ENGINES if kind.name not in ("torch", "tensorrt")])
def test_one_that_is_dropped_before_it_is_opened_is_an_error_that_leads_to_a_build(name: str, tmp_path) -> None:
    with pytest.raises(EngineError):
        builder(name).load(tmp_path / "engine", target())


def test_those_who_add_drop_and_use_at_once_do_not_harm_each_other(tmp_path) -> None:
    kept, start, errors = EngineCache(tmp_path, limit=int(2.5 * SIZE)), threading.Barrier(4), []

    def work(first: int) -> None:
        try:
            start.wait(timeout=30)
            for turn in range(60):
                name = "abcdef"[(first + turn * (1 + first)) % 6]
                if kept.find({"engine": name}, ".fake") is None:
                    keep(kept, name)
        except Exception as error:  # noqa: BLE001 - the test tells which
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    keep(kept, "a")
    assert "a" in held(kept)
    assert len(held(kept)) <= 2
    assert all(kept.find({"engine": name}, ".fake") for name in held(kept)), "whole or absent"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("text", "limit"), [(None, 4e9), ("", 4e9), ("0", 0), ("0.5", 5e8)])
def test_the_limit_is_a_setting(text, limit, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("CDAL_CACHE_GB", raising=False)
    if text is not None:
        monkeypatch.setenv("CDAL_CACHE_GB", text)
    assert EngineCache(tmp_path).limit == limit


@pytest.mark.parametrize("text", ["-1", "4GB", "nan", "inf"])
def test_a_limit_that_is_none_is_an_error(text, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CDAL_CACHE_GB", text)
    with pytest.raises(UsageError, match=f"CDAL_CACHE_GB is '{text}'; give the gigabytes"):
        EngineCache(tmp_path)
