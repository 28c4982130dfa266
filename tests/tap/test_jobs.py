"""Asynchronous jobs on a loopback server: created once, waited for, downloaded whole, resumed after a crash."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from resilient_core.errors import ConfigError
from tap_resilient.source import load_source
from tests.tap.support import Answer, config_for, run_tap, serving

ROWS = [{"id": n, "at": f"2024-01-{n:02d}T00:00:00Z"} for n in range(1, 8)]


class Reports:
    """A reporting API. A job runs for `slow` looks; `fates` are the ends of the jobs, in order."""

    def __init__(self, *fates, slow=1, results=None, declared=True):
        self.fates = fates or ("done",)
        self.slow = slow
        self.results = results
        self.declared = declared
        self.jobs = {}
        self.keys = {}
        self.cancelled = []
        self.answering = threading.Event()
        self.answering.set()
        self.lock = threading.Lock()

    def __call__(self, asked):
        with self.lock:
            answer = self.answer(asked)
        self.answering.wait(10)
        return answer

    def answer(self, asked):
        if asked.path == "/reports":
            return self.create(asked)
        job_id = int(asked.path.split("/")[2])
        if asked.method == "DELETE":
            self.cancelled.append(job_id)
            return Answer(status=204)
        job = self.jobs[job_id]
        if asked.path.endswith("/rows"):
            return self.rows(asked, job)
        return self.look(job_id, job)

    def create(self, asked):
        key = asked.headers.get("Idempotency-Key")
        if key not in self.keys or key is None:
            fate = self.fates[min(len(self.jobs), len(self.fates) - 1)]
            self.jobs[len(self.jobs) + 1] = {"fate": fate, "looks": 0, "asked": asked.body or {}}
            self.keys[key] = len(self.jobs)
        return Answer({"id": self.keys[key]}, 201)

    def look(self, job_id, job):
        job["looks"] += 1
        if job["looks"] <= self.slow:
            return Answer({"id": job_id, "status": "running"})
        if job["fate"] == "gone":
            return Answer({}, 404)
        rows = self.chosen(job)
        more = {"rows": len(rows)} if self.declared else {}
        urls = [f"/reports/{job_id}/rows?part={n}" for n in range(self.results or 1)]
        return Answer({"id": job_id, "status": job["fate"], "urls": urls, **more})

    def chosen(self, job):
        since, until = job["asked"].get("since", ""), job["asked"].get("until", "9")
        return [row for row in ROWS if since <= row["at"] < until]

    def rows(self, asked, job):
        rows = self.chosen(job)
        if self.results:
            rows = rows[int(asked.params["part"]) :: self.results]
        return Answer({"data": rows})


def report(**more):
    stream = {
        "name": "report",
        "type": "async_job",
        "create": {"path": "/reports", "idempotency_header": "Idempotency-Key"},
        "poll": {
            "path": "/reports/{job.id}",
            "done": ["done"],
            "failed": ["failed"],
            "rows_path": "rows",
            "interval": "1ms",
            "max_interval": "20ms",
        },
        "download": {"path": "/reports/{job.id}/rows"},
        "records": {"path": "data"},
        "primary_keys": ["id"],
    }
    return {**stream, **more}


SINCE = {"replication_key": "at", "start_param": "since"}
INCREMENTAL = report(
    create={"path": "/reports", "json": {"kind": "all"}, "idempotency_header": "Idempotency-Key"}, incremental=SINCE
)


def ids(run):
    return [record["id"] for record in run.records("report")]


def test_a_job_is_created_waited_for_and_downloaded():
    with serving(Reports(slow=3)) as api:
        run = run_tap(config_for(api.url, report()))
    assert (run.code, ids(run), run.verdicts) == (0, [1, 2, 3, 4, 5, 6, 7], {"report": "complete"})
    assert [asked.path for asked in api.log] == ["/reports", *["/reports/1"] * 4, "/reports/1/rows"]
    assert "jobs" not in run.state["resilient"]


def test_several_result_urls_are_all_read():
    download = {"urls_path": "urls"}
    with serving(Reports(results=3)) as api:
        run = run_tap(config_for(api.url, report(download=download)))
    assert (run.code, sorted(ids(run)), run.verdicts) == (0, [1, 2, 3, 4, 5, 6, 7], {"report": "complete"})


def test_a_result_on_pages_is_read_by_the_paginator():
    def pages(asked):
        if asked.path.endswith("/rows"):
            first = (int(asked.params["page"]) - 1) * 3
            return Answer({"data": ROWS[first : first + 3]})
        return reports(asked)

    reports = Reports()
    with serving(pages) as api:
        run = run_tap(config_for(api.url, report(paginator={"type": "page", "page_size": 3})))
    assert (run.code, ids(run), run.verdicts) == (0, [1, 2, 3, 4, 5, 6, 7], {"report": "complete"})


def test_a_csv_result_goes_through_the_decoder():
    def as_csv(asked):
        answer = reports(asked)
        if asked.path.endswith("/rows"):
            return Answer(b"id,at\n1,2024-01-01\n", headers={"Content-Type": "text/csv"})
        return answer

    reports = Reports(declared=False)
    with serving(as_csv) as api:
        run = run_tap(config_for(api.url, report(decoder="csv", records={"path": "@"})))
    assert run.records("report") == [{"id": "1", "at": "2024-01-01"}]


def test_fewer_rows_than_the_job_declares_are_incomplete_and_hold_the_bookmark():
    def short(asked):
        answer = reports(asked)
        return Answer({"data": ROWS[:3]}) if asked.path.endswith("/rows") else answer

    reports = Reports()
    with serving(short) as api:
        run = run_tap(config_for(api.url, INCREMENTAL))
    assert (run.code, run.verdicts, run.bookmark("report")) == (65, {"report": "incomplete"}, None)
    assert "the job declared 7 rows, 3 came" in str(run.error)


@pytest.mark.parametrize("fate", ["failed", "gone"])
def test_a_failed_or_expired_job_is_created_anew_once(fate):
    reports = Reports(fate, "done")
    with serving(reports) as api:
        run = run_tap(config_for(api.url, report()))
    assert (run.code, len(ids(run)), len(reports.jobs)) == (0, 7, 2)


def test_a_job_that_fails_twice_is_a_clear_error():
    reports = Reports("failed")
    with serving(reports) as api:
        run = run_tap(config_for(api.url, report()))
    assert (run.code, ids(run), len(reports.jobs)) == (69, [], 2)
    assert "the job failed or expired, twice" in str(run.error)
    assert "jobs" not in run.state["resilient"]


def test_a_result_that_is_gone_makes_a_new_job():
    def once_gone(asked):
        answer = reports(asked)
        return Answer({}, 410) if asked.path == "/reports/1/rows" else answer

    reports = Reports()
    with serving(once_gone) as api:
        run = run_tap(config_for(api.url, report()))
    assert (run.code, len(ids(run)), len(reports.jobs)) == (0, 7, 2)


def test_a_job_that_outlasts_the_timeout_stops_with_75_and_the_next_run_waits_on():
    reports = Reports(slow=40)
    poll = {**report()["poll"], "timeout": "50ms"}
    with serving(reports) as api:
        config = config_for(api.url, report(poll=poll))
        first = run_tap(config)
        assert first.code == 75
        assert first.state["resilient"]["jobs"]["report"][0]["id"] == 1
        reports.slow = 0
        second = run_tap(config, state=first.state)
    assert (second.code, len(ids(second)), len(reports.jobs)) == (0, 7, 1)
    assert "jobs" not in second.state["resilient"]


def test_the_window_stands_in_the_body_of_create_and_the_next_run_goes_on_from_the_bookmark():
    reports = Reports()
    with serving(reports) as api:
        config = config_for(api.url, INCREMENTAL, start_date="2024-01-03")
        first = run_tap(config)
        second = run_tap(config, state=first.state)
    assert [job["asked"] for job in reports.jobs.values()] == [
        {"kind": "all", "since": "2024-01-03T00:00:00Z"},
        {"kind": "all", "since": "2024-01-07T00:00:00Z"},
    ]
    assert (ids(first), ids(second)) == ([3, 4, 5, 6, 7], [7])
    assert api.params("since") == [None] * len(api.log)


def test_a_resumed_job_is_read_with_its_own_window_and_the_rest_by_another_job():
    reports = Reports(slow=1000)
    create = {"path": "/reports", "json": {}}
    stream = report(
        create=create,
        incremental={**SINCE, "end_param": "until", "initial_value": "2024-01-01T00:00:00Z"},
        poll={**report()["poll"], "timeout": "30ms"},
    )
    with serving(reports) as api:
        first = run_tap(config_for(api.url, stream))
        reports.slow = 0
        second = run_tap(config_for(api.url, stream), state=first.state)
    (one, two) = [job["asked"] for job in reports.jobs.values()]
    assert (first.code, second.code) == (75, 0)
    assert one["until"] == two["since"] < two["until"]
    assert second.bookmark("report") == "2024-01-07T00:00:00Z"


def left_behind(url, **facts):
    """The state of a run that was killed while its job ran, and the configuration."""
    config = config_for(url, INCREMENTAL)
    entry = {"context": {}, "id": 1, "key": "k", **facts}
    source = load_source(config).fingerprint
    return config, {"bookmarks": {}, "resilient": {"version": 1, "source": source, "jobs": {"report": [entry]}}}


def test_a_job_from_before_the_bookmark_was_set_back_is_not_used():
    reports = Reports()
    with serving(reports) as api:
        reports.jobs[1] = {"fate": "done", "looks": 9, "asked": {"since": "2024-01-06"}}
        config, state = left_behind(api.url, start="2024-01-06T00:00:00Z", bookmark="2024-01-06T00:00:00Z")
        run = run_tap(config, state=state)
    assert (len(ids(run)), len(reports.jobs)) == (7, 2)


def test_a_job_of_another_source_is_not_used():
    reports = Reports()
    with serving(reports) as api:
        config, state = left_behind(api.url)
        state["resilient"]["source"] = "other"
        run = run_tap(config, state=state)
    assert (run.code, api.log[0].path) == (0, "/reports")


def test_a_lost_answer_to_create_is_asked_for_again_only_with_a_key():
    def lose_first(reports):
        lost = iter([True])

        def handle(asked):
            answer = reports(asked)
            return Answer({}, 500) if asked.path == "/reports" and next(lost, False) else answer

        return handle

    keyed, bare = Reports(), Reports()
    with serving(lose_first(keyed)) as api:
        assert run_tap(config_for(api.url, report())).code == 0
    with serving(lose_first(bare)) as api:
        assert run_tap(config_for(api.url, report(create={"path": "/reports"}))).code == 69
    assert (len(keyed.jobs), len(bare.jobs)) == (1, 1)


def test_each_partition_has_a_job_of_its_own():
    reports = Reports()
    create = {"path": "/reports", "json": {"region": "{partition.region}"}}
    with serving(reports) as api:
        run = run_tap(config_for(api.url, report(create=create, partitions=[{"region": "eu"}, {"region": "us"}])))
    assert [job["asked"] for job in reports.jobs.values()] == [{"region": "eu"}, {"region": "us"}]
    assert len(ids(run)) == 14


def test_retry_after_is_waited_for_between_looks():
    times = []

    def hinting(asked):
        answer = reports(asked)
        if asked.path == "/reports/1":
            times.append(time.monotonic())
            return Answer(answer.body, headers={"Retry-After": "0.3"})
        return answer

    reports = Reports()
    with serving(hinting) as api:
        assert run_tap(config_for(api.url, report())).code == 0
    assert times[1] - times[0] >= 0.3


def test_a_status_that_is_in_no_list_is_a_failed_request():
    poll = {**report()["poll"], "running": ["queued"]}
    with serving(Reports(slow=100)) as api:
        run = run_tap(config_for(api.url, report(poll=poll)))
    assert run.code == 69
    assert "poll.running" in str(run.error)


def test_discovery_creates_no_job():
    with serving(Reports()) as api:
        config = config_for(api.url, report())
        out = subprocess.run(
            [sys.executable, "-m", "tap_resilient.tap", "--config", "/dev/stdin", "--discover"],
            input=json.dumps(config).encode(),
            capture_output=True,
            check=True,
        )
    assert (json.loads(out.stdout)["streams"][0]["key_properties"], api.log) == (["id"], [])


# Crashes: a real process, ended while it waits


def killed_while_polling(tmp_path, config, reports, signum, *, looks=3):
    """The last STATE of a tap that got the signal after some looks, and its exit code."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with (tmp_path / "out").open("wb") as out:
        tap = subprocess.Popen(
            [sys.executable, "-m", "tap_resilient.tap", "--config", str(path)], stdout=out, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while not (reports.jobs and reports.jobs[1]["looks"] >= looks) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(tap.pid, signum)
        code = tap.wait(20)
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    return [line["value"] for line in lines if line["type"] == "STATE"][-1], code


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_while_polling_leaves_its_job_to_the_next(tmp_path, signum):
    reports = Reports(slow=10**6)
    with serving(reports) as api:
        config = config_for(api.url, report())
        state, code = killed_while_polling(tmp_path, config, reports, signum)
        reports.slow = 0
        run = run_tap(config, state=state)
    assert code in {-signal.SIGKILL, 128 + signal.SIGTERM}
    assert (run.code, ids(run), len(reports.jobs)) == (0, [1, 2, 3, 4, 5, 6, 7], 1)
    assert sum(asked.path == "/reports" for asked in api.log) == 1


def test_a_crash_before_the_answer_to_create_asks_for_the_same_job_again():
    reports = Reports()
    with serving(reports) as api:
        config, state = left_behind(api.url, id=None)
        reports.jobs[1] = {"fate": "done", "looks": 0, "asked": {}}
        reports.keys["k"] = 1
        run = run_tap(config, state=state)
    assert (run.code, len(ids(run)), len(reports.jobs)) == (0, 7, 1)


def test_a_run_that_is_killed_while_its_job_is_created_creates_no_second_one(tmp_path):
    reports = Reports(slow=0)
    reports.answering.clear()
    with serving(reports) as api:
        config = config_for(api.url, report())
        state, _ = killed_while_polling(tmp_path, config, reports, signal.SIGKILL, looks=0)
        reports.answering.set()
        run = run_tap(config, state=state)
    assert (run.code, len(ids(run)), len(reports.jobs)) == (0, 7, 1)
    assert sum(asked.path == "/reports" for asked in api.log) == 2


def test_a_signal_cancels_the_job_where_that_is_configured(tmp_path):
    reports = Reports(slow=10**6)
    with serving(reports) as api:
        config = config_for(api.url, report(cancel={"path": "/reports/{job.id}"}))
        state, code = killed_while_polling(tmp_path, config, reports, signal.SIGTERM)
    assert (code, reports.cancelled) == (128 + signal.SIGTERM, [1])
    assert "jobs" not in state["resilient"]


# Configuration


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        ({"create": None}, "create", "required"),
        ({"create": {"path": "/r", "metod": "PUT"}}, "create.metod", "did you mean 'method'"),
        ({"create": {"path": "/r/{job.id}"}}, "create.path", "none yet"),
        ({"poll": {"path": "/r"}}, "poll.done", "required"),
        ({"poll": {"path": "/r", "done": ["x"], "interval": 5}}, "poll.interval", "unit"),
        ({"download": {}}, "download", "one of them"),
        ({"download": {"path": "/a", "urls_path": "b"}}, "download", "one of them"),
        ({"download": {"urls_path": "b["}}, "download.urls_path", "JMESPath"),
        ({"cancel": {"path": "/r", "json": {}}}, "cancel.json", "method"),
        ({"cancel": {"path": "/r/{jb.id}"}}, "cancel.path", "did you mean 'job'"),
        ({"path": "/x"}, "path", "unknown setting"),
    ],
)
def test_faults_of_a_job_are_named(change, where, words):
    with pytest.raises(ConfigError) as caught:
        load_source(config_for("https://api.example.com", report(**change)))
    found = {fault.where: fault.message for fault in caught.value.faults}
    assert words in found[f"streams[0].{where}"]


def test_only_jobs_have_a_job_id():
    with pytest.raises(ConfigError, match="job, or none yet"):
        load_source(config_for("https://api.example.com", {"name": "a", "path": "/{job.id}"}))


def test_a_state_whose_jobs_are_no_jobs_is_refused():
    with serving(Reports()) as api:
        run = run_tap(config_for(api.url, report()), state={"resilient": {"jobs": {"report": 7}}})
    assert (run.code, api.log) == (78, [])
