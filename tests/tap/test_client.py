"""The client against a real server on loopback, whose log is the truth."""

from __future__ import annotations

import gzip
import json
import logging
import threading
from decimal import Decimal

import pytest

from resilient_core.errors import ConfigError, CredentialsRefusedError, StoppedError, UnavailableError
from resilient_core.secrets import Resolver
from tap_resilient.client import (
    ActionRequested,
    BadAnswerError,
    Client,
    ClientConfig,
    Request,
    RequestRefusedError,
    parse_handlers,
)
from tests.tap.faulty import Reply, faulty

GET = Request("GET", "/orders")


class Sleeper:
    """Remembers waits instead of waiting."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def sleeper():
    return Sleeper()


@pytest.fixture
def client_for(sleeper):
    clients = []

    def make(url: str, **client):
        config, faults = ClientConfig.parse({"base_url": url, **client})
        assert not faults
        clients.append(Client(config, Resolver(), clock=sleeper.clock, sleep=sleeper.sleep, random=lambda: 0.5))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def handlers(*items):
    parsed, faults = parse_handlers([dict(zip(("when", "action"), item, strict=True)) for item in items], "h")
    assert not faults
    return parsed


def test_a_plain_answer_is_decoded_and_the_connection_is_kept(client_for):
    with faulty([Reply({"id": 1})]) as server:
        client = client_for(server.url)
        assert [client.send(lambda: GET).body for _ in range(3)] == [{"id": 1}] * 3
        assert len({seen.connection for seen in server.seen}) == 1
        assert client.stats.requests == 3
        assert client.stats.bytes == 3 * len('{"id": 1}')


def test_paths_are_joined_below_the_base_url_and_params_are_written_as_json_writes_them(client_for):
    with faulty([Reply()]) as server:
        request = Request("GET", "/orders", params={"since": "a b", "open": True, "skip": None, "page": 2})
        response = client_for(server.url + "/v1/").send(lambda: request)
        assert server.seen[0].path == "/v1/orders"
        assert server.seen[0].params == {"since": "a b", "open": "true", "page": "2"}
        assert response.url == server.url + "/v1/orders?since=a+b&open=true&page=2"


def test_a_server_error_is_retried_with_full_jitter_and_the_request_is_built_anew(client_for, sleeper):
    pages = iter([100, 50, 25])
    with faulty([Reply(status=500), Reply(status=503), Reply({"ok": 1})]) as server:
        client = client_for(server.url)
        body = client.send(lambda: Request("GET", "/orders", params={"limit": next(pages)})).body
        assert body == {"ok": 1}
        assert [seen.params["limit"] for seen in server.seen] == ["100", "50", "25"]
        assert sleeper.waits == [0.5, 1.0]
        assert client.stats.retries == 2


def test_attempts_end_after_max_attempts(client_for):
    with faulty([Reply(status=500)]) as server:
        with pytest.raises(UnavailableError, match=r"GET http://127\.0\.0\.1:\d+/orders answers 500"):
            client_for(server.url, retry={"max_attempts": 4}).send(lambda: GET)
        assert len(server.seen) == 4


def test_attempts_end_after_max_elapsed(client_for):
    with faulty([Reply(status=500)]) as server:
        with pytest.raises(UnavailableError):
            client_for(server.url, retry={"max_attempts": 50, "max_elapsed": "20s"}).send(lambda: GET)
        assert len(server.seen) == 6  # 0.5 + 1 + 2 + 4 + 8 s, and 16 s more would be too long


def test_the_wait_that_the_server_asks_for_is_never_shortened(client_for, sleeper):
    with faulty([Reply(status=429, headers={"Retry-After": "120"}), Reply()]) as server:
        client = client_for(server.url, retry={"max": "1s", "max_elapsed": "5s"})
        client.send(lambda: GET)
        assert sum(sleeper.waits) >= 120
        assert client.stats.refusals == 1


def test_retry_after_zero_still_backs_off(client_for, sleeper):
    with faulty([Reply(status=429, headers={"Retry-After": "0"})] * 3 + [Reply()]) as server:
        client_for(server.url).send(lambda: GET)
        assert sum(sleeper.waits) >= 0.5 + 1 + 2


def test_a_wait_beyond_retry_after_max_stops_cleanly_in_all_threads(client_for):
    with faulty([Reply(status=503, headers={"Retry-After": "7200"})]) as server:
        client = client_for(server.url)
        with pytest.raises(StoppedError, match="7200 s, longer than retry_after_max"):
            client.send(lambda: GET)
        with pytest.raises(StoppedError):
            client.send(lambda: GET)
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param(Reply({"a": 1}, cut=True), "cut", id="cut body"),
        pytest.param(Reply({"a": 1}, cut=True, chunked=True), "cut", id="cut chunks"),
        pytest.param(Reply(b'{"a": '), "not valid json", id="bad json"),
        pytest.param(Reply(b"<!DOCTYPE html><html></html>"), "HTML page", id="html"),
        pytest.param(Reply(b""), "empty", id="empty"),
        pytest.param(Reply(b"[" * 1_000_000), "nested too deeply", id="deep json"),
        pytest.param(Reply(gzip.compress(b"[1]")[:-6], headers={"Content-Encoding": "gzip"}), "cut", id="cut gzip"),
        pytest.param(Reply(b"abc", headers={"Content-Encoding": "gzip"}), "damaged", id="no gzip"),
        pytest.param(Reply(b"abc", headers={"Content-Encoding": "br"}), "not asked for", id="brotli"),
        pytest.param(
            Reply(gzip.compress(b" " * 50_000_000), headers={"Content-Encoding": "gzip"}),
            "bomb",
            id="decompression bomb",
        ),
    ],
)
def test_a_bad_success_is_a_failed_request_that_is_retried(client_for, fault, message):
    with faulty([fault, Reply({"a": 1})]) as server:
        client = client_for(server.url)
        assert client.send(lambda: GET).body == {"a": 1}
        assert client.stats.retries == 1
    with faulty([fault]) as server, pytest.raises(BadAnswerError, match=message):
        client_for(server.url, retry={"max_attempts": 2}).send(lambda: GET)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_body_is_noticed_even_where_what_arrived_can_be_decoded(client_for, chunked):
    rows = b'{"a": 1}\n' * 10
    with faulty([Reply(rows, cut=True, chunked=chunked), Reply(rows, chunked=chunked)]) as server:
        body = client_for(server.url).send(lambda: Request("GET", "/x", decoder="jsonl")).body
        assert len(body) == 10
        assert len(server.seen) == 2


def test_a_reset_connection_is_retried(client_for):
    with faulty([Reply(reset=True), Reply({"a": 1})]) as server:
        assert client_for(server.url).send(lambda: GET).body == {"a": 1}


def test_a_server_that_is_down_is_named_without_its_query(client_for):
    with faulty([Reply()]) as server:
        url = server.url
    with pytest.raises(UnavailableError) as caught:
        client_for(url, auth={"type": "api_key", "param": "key", "value": "hush-hush"}).send(lambda: GET)
    assert str(caught.value) == f"GET {url}/orders: connection refused; is the server running?"


def test_a_body_larger_than_allowed_is_refused(client_for):
    with faulty([Reply(b" " * 2000 + b"{}", chunked=True)]) as server:
        client = client_for(server.url, max_response_bytes="1kB", retry={"max_attempts": 1})
        with pytest.raises(BadAnswerError, match="max_response_bytes"):
            client.send(lambda: GET)


def test_a_trickling_body_ends_at_the_total_timeout():
    config, _ = ClientConfig.parse({"base_url": "http://x", "retry": {"max_attempts": 1}})
    with faulty([Reply(b" " * 200 + b"{}", drip=0.01)]) as server:
        config, _ = ClientConfig.parse(
            {"base_url": server.url, "timeout": {"total": "200ms", "read": "150ms"}, "retry": {"max_attempts": 1}}
        )
        client = Client(config, Resolver())
        with pytest.raises(BadAnswerError, match=r"longer than timeout\.total"):
            client.send(lambda: GET)
        client.close()


def test_a_silent_server_ends_at_the_read_timeout(client_for):
    with faulty([Reply(slow=0.5)]) as server:
        client = client_for(server.url, timeout={"read": "50ms"}, retry={"max_attempts": 1})
        with pytest.raises(UnavailableError, match=r"no answer within timeout\.read"):
            client.send(lambda: GET)


def test_gzip_bodies_and_gzip_files_are_decompressed(client_for):
    packed = gzip.compress(b'{"n": 9007199254740993}')
    with faulty([Reply(packed, headers={"Content-Encoding": "gzip"}), Reply(packed), Reply(packed + packed)]) as server:
        client = client_for(server.url)
        assert client.send(lambda: GET).body == {"n": 9007199254740993}
        assert client.send(lambda: GET).body == {"n": 9007199254740993}
        two = client.send(lambda: Request("GET", "/x", decoder="jsonl"))
        assert two.size_bytes == 2 * len(b'{"n": 9007199254740993}')


def test_204_has_no_body(client_for):
    with faulty([Reply(b"", status=204)]) as server:
        response = client_for(server.url).send(lambda: GET)
        assert (response.status, response.body) == (204, None)


def test_numbers_stay_exact(client_for):
    with faulty([Reply(b"[123456789012345678901234567890, 0.1234567890123456789, 1.5]")]) as server:
        body = client_for(server.url).send(lambda: GET).body
        assert body == [123456789012345678901234567890, Decimal("0.1234567890123456789"), 1.5]


def test_a_check_that_finds_the_shape_wrong_makes_a_failed_request(client_for):
    def check(response):
        if "items" not in response.body:
            raise BadAnswerError("there is no 'items'")

    with faulty([Reply({"error": "busy"}), Reply({"items": []})]) as server:
        assert client_for(server.url).send(lambda: GET, check=check).body == {"items": []}
    with faulty([Reply({"error": "busy"})]) as server:
        with pytest.raises(BadAnswerError, match=r"/orders: there is no 'items'"):
            client_for(server.url, retry={"max_attempts": 2}).send(lambda: GET, check=check)
        assert len(server.seen) == 2


def test_an_unlisted_4xx_fails_at_once(client_for):
    with faulty([Reply({"secret": "x"}, status=404)]) as server:
        with pytest.raises(RequestRefusedError, match="answers 404") as caught:
            client_for(server.url).send(lambda: GET)
        assert caught.value.status == 404
        assert "secret" not in str(caught.value)
        assert len(server.seen) == 1


def test_handlers_decide_in_order_before_the_status_does(client_for):
    rules = handlers(("status == `404`", "success"), ("body.error == 'wait'", "retry"), ("body.error", "fail"))
    replies = [Reply({"error": "wait"}), Reply({"done": 1}, status=404), Reply({"error": "gone"})]
    with faulty(replies) as server:
        client = client_for(server.url)
        assert client.send(lambda: GET, handlers=rules).status == 404
        with pytest.raises(RequestRefusedError, match=r"answers 200 \(error_handler: fail\)"):
            client.send(lambda: GET, handlers=rules)


def test_a_handler_may_call_a_403_rate_limited(client_for, sleeper):
    rules = handlers(("status == `403` && headers.\"x-ratelimit-remaining\" == '0'", "rate_limited"))
    refusal = Reply(status=403, headers={"X-RateLimit-Remaining": "0", "Retry-After": "30"})
    with faulty([refusal, Reply({"a": 1})]) as server:
        assert client_for(server.url).send(lambda: GET, handlers=rules).body == {"a": 1}
        assert sum(sleeper.waits) >= 30


@pytest.mark.parametrize("action", ["shrink_page", "split_window", "skip_page", "skip_partition", "stop"])
def test_actions_of_the_scan_are_handed_to_it(client_for, action):
    with faulty([Reply({"e": 1}, status=500)]) as server:
        with pytest.raises(ActionRequested) as caught:
            client_for(server.url).send(lambda: GET, handlers=handlers(("status == `500`", action)))
        assert (caught.value.action, caught.value.response.body) == (action, {"e": 1})


def test_a_post_that_may_have_an_effect_is_not_sent_twice(client_for):
    def write():
        return Request("POST", "/orders", json={"a": 1}, read_only=False)

    with faulty([Reply(status=500), Reply()]) as server:
        with pytest.raises(UnavailableError):
            client_for(server.url).send(write)
        assert len(server.seen) == 1
    with faulty([Reply(status=429, headers={"Retry-After": "1"}), Reply()]) as server:
        client_for(server.url).send(write)  # refused means: not carried out
        assert json.loads(server.seen[1].body) == {"a": 1}


def test_a_post_with_an_idempotency_key_is_sent_again(client_for):
    request = Request("POST", "/orders", json={}, headers={"Idempotency-Key": "k1"}, read_only=False)
    with faulty([Reply(status=500), Reply()]) as server:
        client_for(server.url).send(lambda: request)
        assert [seen.headers["idempotency-key"] for seen in server.seen] == ["k1", "k1"]


def test_next_urls_of_another_origin_are_refused(client_for):
    with faulty([Reply()]) as home, faulty([Reply()]) as away:
        client = client_for(home.url, auth={"type": "bearer", "token": "tok-12345"})
        with pytest.raises(ConfigError, match=r"leads away from .* client\.allowed_hosts"):
            client.send(lambda: Request("GET", f"{away.url}/next?cursor=1"))
        assert not away.seen


def test_redirects_are_followed_only_within_the_origin(client_for):
    with faulty([Reply(status=302, headers={"Location": "/new?x=1"}), Reply({"a": 1})]) as home:
        assert client_for(home.url).send(lambda: GET).body == {"a": 1}
        assert home.paths == ["/orders", "/new"]
    with faulty([Reply()]) as away, faulty([Reply(status=302, headers={"Location": f"{away.url}/x"})]) as home:
        with pytest.raises(ConfigError, match="leads away"):
            client_for(home.url, headers={"X-Api-Key": "tok-12345"}).send(lambda: GET)
        assert not away.seen


def test_allowed_hosts_are_asked_without_any_credentials(client_for):
    with faulty([Reply([1])]) as away, faulty([Reply(status=302, headers={"Location": f"{away.url}/x?sig=1"})]) as home:
        client = client_for(
            home.url,
            allowed_hosts=["127.0.0.1"],
            headers={"X-Api-Key": "tok-12345"},
            auth={"type": "api_key", "param": "key", "value": "tok-67890"},
        )
        assert client.send(lambda: GET).body == [1]
        assert "tok-" in str(home.seen[0])
        assert "tok-" not in str(away.seen[0])
        assert away.seen[0].params == {"sig": "1"}


def test_a_key_that_the_server_echoes_in_links_goes_neither_into_responses_nor_to_other_hosts(client_for):
    auth = {"type": "api_key", "param": "key", "value": "tok-67890"}
    with faulty([Reply([1])]) as away, faulty([Reply([1])]) as home:
        client = client_for(home.url, allowed_hosts=["127.0.0.1"], auth=auth)
        assert client.send(lambda: Request("GET", f"{home.url}/x?key=tok-67890&page=2")).url == f"{home.url}/x?page=2"
        client.send(lambda: Request("GET", f"{away.url}/x?key=tok-67890&page=2"))
        assert home.seen[0].params == {"key": "tok-67890", "page": "2"}
        assert away.seen[0].params == {"page": "2"}


def test_endless_redirects_end(client_for):
    with faulty([Reply(status=302, headers={"Location": "/again"})]) as server:
        with pytest.raises(RequestRefusedError, match="too many redirects"):
            client_for(server.url).send(lambda: GET)
        assert len(server.seen) == 6


def test_a_key_in_the_query_shows_neither_in_logs_nor_in_responses(client_for, caplog):
    caplog.set_level(logging.DEBUG)
    auth = {"type": "api_key", "param": "key", "value": "tok-12345"}
    with faulty([Reply(status=500), Reply({"next": "/orders?key=tok-12345"}), Reply(status=404)]) as server:
        client = client_for(server.url, auth=auth)
        assert "tok-" not in client.send(lambda: GET).url
        again = Request("GET", f"{server.url}/orders?key=tok-12345&page=2")
        with pytest.raises(RequestRefusedError) as caught:
            client.send(lambda: again)
        assert server.seen[-1].params == {"page": "2", "key": "tok-12345"}
    ours = "".join(record.getMessage() for record in caplog.records if record.name == "tap-resilient")
    assert "retrying" in ours
    assert "tok-" not in ours + str(caught.value) + repr(caught.value)


def test_a_401_fetches_the_secret_again_once(client_for, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "old-token")

    def script(seen):
        if seen.headers["authorization"] == "Bearer new-token":
            return Reply({"a": 1})
        monkeypatch.setenv("API_TOKEN", "new-token")
        return Reply(status=401)

    with faulty(script) as server:
        client = client_for(server.url, auth={"type": "bearer", "token": "ref+env://API_TOKEN"})
        assert client.send(lambda: GET).body == {"a": 1}
        assert len(server.seen) == 2


def test_a_401_with_an_unchanged_secret_is_77_at_once(client_for, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "old-token")
    with faulty([Reply(status=401)]) as server:
        client = client_for(server.url, auth={"type": "bearer", "token": "ref+env://API_TOKEN"})
        with pytest.raises(CredentialsRefusedError) as caught:
            client.send(lambda: GET)
        assert caught.value.code == 77
        assert len(server.seen) == 1


def test_a_refused_new_secret_is_77(client_for, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "token-0")

    def script(seen):
        monkeypatch.setenv("API_TOKEN", f"token-{len(server.seen)}")
        return Reply(status=401)

    with faulty(script) as server:
        client = client_for(server.url, headers={"X-Token": "ref+env://API_TOKEN"})
        with pytest.raises(CredentialsRefusedError):
            client.send(lambda: GET)
        assert [seen.headers["x-token"] for seen in server.seen] == ["token-0", "token-1"]


def test_a_403_is_a_refusal_of_these_credentials(client_for):
    with faulty([Reply(status=403)]) as server, pytest.raises(CredentialsRefusedError, match="may not read"):
        client_for(server.url).send(lambda: GET)


def test_headers_that_http_forbids_are_a_configuration_error_without_the_value(client_for):
    with faulty([Reply()]) as server:
        client = client_for(server.url, headers={"X-Token": "tok\n12345"})
        with pytest.raises(ConfigError) as caught:
            client.send(lambda: GET)
        assert "12345" not in str(caught.value)


def test_an_endless_header_block_is_a_failed_request(client_for):
    headers = {f"X-{number}": "y" * 1000 for number in range(200)}
    with faulty([Reply(headers=headers)]) as server, pytest.raises(UnavailableError, match="no valid HTTP answer"):
        client_for(server.url, retry={"max_attempts": 2}).send(lambda: GET)


def test_threads_share_one_governor_and_lose_no_count(client_for):
    with faulty([Reply([1])]) as server:
        client = client_for(server.url, rate_limit={"concurrency": 4})
        threads = [threading.Thread(target=lambda: [client.send(lambda: GET) for _ in range(25)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.stats.requests == len(server.seen) == 200


def test_every_fault_of_the_client_block_is_told_at_once():
    _, faults = ClientConfig.parse(
        {
            "base_url": "ftp://x",
            "timeouts": {},
            "timeout": {"read": 5},
            "retry": {"statuses": ["x"], "max_attempts": 0},
            "rate_limit": {"requests": 0, "per": "1s"},
            "auth": {"type": "bearrer"},
            "headers": {"X-Key": "ref+envv://A"},
            "ca_bundle": "/nowhere",
        }
    )
    assert {fault.where for fault in faults} == {
        "client.base_url",
        "client.timeouts",
        "client.timeout.read",
        "client.retry.statuses",
        "client.retry.max_attempts",
        "client.rate_limit.requests",
        "client.auth.type",
        "client.headers.X-Key",
        "client.ca_bundle",
    }
    assert "did you mean 'bearer'?" in str(next(fault for fault in faults if fault.where == "client.auth.type"))


def test_credentials_in_the_base_url_are_refused():
    _, faults = ClientConfig.parse({"base_url": "https://me:secret@x.example"})
    assert [str(fault) for fault in faults] == [
        "client.base_url: must not hold credentials; use auth: {type: basic, …}"
    ]
