"""A writer that is killed at any moment leaves a study that is whole, with all that it had finished."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glasshouse.study import Store
from glasshouse.study.store import check

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks")

# One process imports torch, forks writers, kills them, and reads meanwhile.
SCRIPT = """
import os, random, signal, sys, time
import numpy as np
from glasshouse.study import Store
from glasshouse.study.store import check

def write(path, said):
    with Store.open(path, write=True) as store:
        turn = int(store.array("layer", "turn")[0]) if store.files("array") else 0
        while True:
            turn += 1
            store.put_array("layer", "turn", np.full(5000, turn))
            store.put_patches("layer", [[b"%d" % turn] * 50] * 20)
            store.put_units("layer", [{"unit": unit, "turn": turn} for unit in range(50)])
            with store.job(f"job {turn % 3}", restart=True) as job:
                (job.partials / "half").write_text("x")
            os.write(said, b"%d " % turn)

def killed(path, pause):
    "Start a writer, read what it writes, kill it, and give the last turn that it said was finished."
    hear, said = os.pipe()
    if not (child := os.fork()):
        write(path, said)
    os.close(said)
    first = os.read(hear, 1000)
    try:
        with Store.open(path) as reader:
            for _ in range(3):
                turns = reader.array("layer", "turn")
                assert (turns == turns[0]).all()
                assert len(set(reader.patches("layer", 19))) == 1
                time.sleep(pause / 3)
    finally:
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return int((first + os.read(hear, 10**6)).split()[-1])

def look(path, said):
    seen = check(path)
    assert seen.whole, seen.findings
    with Store.open(path) as store:
        turns = store.array("layer", "turn")
        assert len(turns) == 5000 and (turns == turns[0]).all()
        (units,) = {row["turn"] for row in store.units("layer")}
        patches = int(store.patches("layer", 0)[0])
    assert said <= units <= patches <= turns[0] <= said + 1, (said, units, patches, turns[0])

if __name__ == "__main__":
    path, times, chance = sys.argv[1], int(sys.argv[2]), random.Random(0)
    for _ in range(times):
        look(path, killed(path, chance.random() / 20))
"""


def run(study: Path, times: int) -> None:
    Store.create(study).close()
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(study), str(times)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_writer_killed_at_random_moments_loses_nothing_that_it_finished(tmp_path: Path):
    run(tmp_path / "study", 12)
    check(tmp_path / "study", repair=True)
    assert {finding.what for finding in check(tmp_path / "study").findings} <= {"unfinished"}


def test_what_a_killed_writer_left_is_taken_up_by_the_next(tmp_path: Path):
    run(tmp_path / "study", 1)
    left = tmp_path / "study" / "catalog.sqlite-wal"
    assert left.stat().st_size
    with Store.open(tmp_path / "study", write=True) as store:
        assert store.units("layer")[0]["turn"] >= 1
    assert not left.exists()
