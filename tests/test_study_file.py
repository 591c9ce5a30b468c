"""``study.yaml`` is typed: what is written reads back, older files too, and others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.commands.run import RunOptions
from bench.commands.run.request import resolve
from bench.config.errors import UserError
from bench.records.study_file import STUDY, Prepared, StudyFile, is_study, read_study, write_study
from bench.study import Request, check_study

REFERENCE = Path(__file__).parent.parent / "results" / "reference"
PREPARED = Prepared(data_sha256="d" * 64, extractors={"digits": "e" * 64}, notes=["a note"])


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return resolve(
        RunOptions(methods=("sde",), preset="smoke", device="cpu", study="s", results=tmp_path)
    )


@pytest.fixture
def written(request_: Request) -> StudyFile:
    study = StudyFile(name="s", settings=request_.settings, prepared=PREPARED)
    write_study(study, request_.folder)
    return study


def change(folder: Path, **changes: Any) -> None:
    body = yaml.safe_load((folder / STUDY).read_text())
    (folder / STUDY).write_text(yaml.safe_dump(body | changes))


def test_what_is_written_reads_back(written: StudyFile, request_: Request) -> None:
    assert is_study(request_.folder)
    assert not is_study(request_.folder.parent)
    assert read_study(request_.folder) == written
    check_study(request_)


@pytest.mark.parametrize("folder", sorted(REFERENCE.glob(f"*/{STUDY}")), ids=str)
def test_files_of_older_versions_read(folder: Path) -> None:
    """They name one extractor by its hash alone, and lack later settings."""
    study = read_study(folder.parent)
    assert len(study.prepared.data_sha256) == 64
    assert study.settings.size is None
    assert study.prepared.reference_sha256 is None


def test_another_setting_is_refused_by_name(written: StudyFile, request_: Request) -> None:
    settings = written.settings.model_dump(mode="json")
    change(request_.folder, settings=settings | {"threads": 7})
    with pytest.raises(UserError, match=r"threads = 7, not .*give another --study"):
        check_study(request_)


def test_a_setting_of_another_version_is_refused(written: StudyFile, request_: Request) -> None:
    settings = written.settings.model_dump(mode="json")
    change(request_.folder, settings=settings | {"of_old": 7})
    with pytest.raises(UserError, match=r"key 'settings.of_old'.*give another --study"):
        check_study(request_)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "cannot be read"),
        ("- 1\n", "study.yaml: "),
        ("name: s\n", "settings"),
    ],
)
def test_an_unreadable_file_is_told_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / STUDY).write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_study(tmp_path)
    assert "\n" not in str(error.value)
