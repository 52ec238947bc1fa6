"""A few of the kills of `python -m benchmarks.kill_runs`."""

import math
import random

import pytest
import warm

from benchmarks.kill_runs import Job, content_of, jobs_of, kill_job
from detection.checkpoint import write_tensors

pytestmark = pytest.mark.robustness


@pytest.fixture(scope="module", autouse=True)
def quick_processes():
    """Let the jobs be processes that have torch at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subprocess.Popen", warm.Popen)
        yield


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return {job.name: job for job in jobs_of(tmp_path_factory.mktemp("kills"), workers=1, halving=False, minutes=4)}


@pytest.mark.parametrize(("name", "moments"), [("NAB preprocess", 2), ("train", 2), ("report", 2)])
def test_a_job_that_was_killed_ends_as_if_undisturbed(jobs, tmp_path, name, moments):
    tally = kill_job(jobs[name], tmp_path, moments, random.Random(0))
    assert tally.kills == moments and tally.in_work >= moments // 2
    assert (tally.identical, tally.bytes_lost, tally.left, tally.untidy) == (moments, 0, 0, 0)


def test_what_is_torn_or_differs_is_seen(tmp_path):
    (tmp_path / "a.csv").write_text("a,seconds\n1,2\n")
    (tmp_path / "b.csv").write_text("a,seconds\n1,3\n")
    write_tensors(tmp_path / "a.state", {"score": math.nan, "shape": [1.0, math.nan]})
    assert content_of(tmp_path / "a.state") == content_of(tmp_path / "a.state")
    (tmp_path / "torn.csv").write_text("a,b\n1,2\n3")
    (tmp_path / "torn.json").write_text('{"a": 1')
    assert content_of(tmp_path / "a.csv") == content_of(tmp_path / "b.csv")
    for name in ("torn.csv", "torn.json"):
        with pytest.raises((AssertionError, ValueError)):
            content_of(tmp_path / name)


def test_a_job_whose_end_differs_is_counted(tmp_path):
    script = tmp_path / "draws.py"
    script.write_text(
        "import pathlib, sys, time, uuid\nout = pathlib.Path(sys.argv[1])\nout.mkdir(exist_ok=True)\n"
        "time.sleep(0.5)\n(out / 'drawn.txt').write_text(uuid.uuid4().hex)\n"
    )
    job = Job("draws", *[lambda out: [str(script), str(out)]] * 2)
    tally = kill_job(job, tmp_path / "jobs", 2, random.Random(0))
    assert (tally.kills, tally.over, tally.identical, tally.bytes_lost) == (2, 2, 0, 2 * 32)
