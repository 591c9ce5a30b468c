"""What lies on disk, as typed models: studies, cells, curves, and how files are written."""

# fmt: off
# isort: off
from bench.records.archive import opened_study, pack
from bench.records.files import (
    disk_usage, new_file, read_json, remove_unfinished, sync_folder, write_archive,
    write_atomically, write_text,
)
from bench.records.locks import CellLock, given_command, hold, in_use, only_command
from bench.records.metric_names import (
    HIGHER_IS_BETTER, LOWER_IS_BETTER, ON_A_SCALE, by_family, direction, headline, metric_family,
)
from bench.records.orphans import is_running, note_death, note_end, settle_study
from bench.records.record import (
    ANCHORS, CHECKPOINT, CONFIG, GRID, LOG, REAL, RECORD, RESERVE, SAMPLES, SIGN, Anchors, Attempt,
    Record, SharedBy, Status, Value, cell_name, cells, is_sampled, keep_reserve, load, now,
    read_curves, readable, save, write_anyhow,
)
from bench.records.study_file import (
    STUDY, Prepared, StudyFile, check_content, find_study, is_study, placed_config, read_study,
    studies, study_at, study_folders, write_study,
)
