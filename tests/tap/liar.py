"""An API of 53 rows behind every kind of paging, with a fault for each way to lie."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.tap.support import Answer, Asked

ROWS = 53
PAGE = 10
FAULTY_PAGE = 3

PAGINATORS: dict[str, dict[str, Any]] = {
    "single": {"type": "single"},
    "page": {"type": "page", "size_param": "limit", "page_size": PAGE},
    "page_no_size": {"type": "page"},
    "page_more": {"type": "page", "size_param": "limit", "page_size": PAGE, "has_more_path": "has_more"},
    "page_pages": {"type": "page", "size_param": "limit", "page_size": PAGE, "total_pages_path": "pages"},
    "offset": {"type": "offset", "limit_param": "limit", "page_size": PAGE},
    "offset_no_size": {"type": "offset"},
    "offset_more": {"type": "offset", "limit_param": "limit", "page_size": PAGE, "has_more_path": "has_more"},
    "cursor": {"type": "cursor", "cursor_param": "cursor", "cursor_path": "next"},
    "cursor_more": {"type": "cursor", "cursor_param": "cursor", "cursor_path": "next", "has_more_path": "has_more"},
    "last_record": {
        "type": "cursor",
        "cursor_param": "after",
        "cursor_from": "last_record.id",
        "limit_param": "limit",
        "page_size": PAGE,
    },
    "last_record_more": {
        "type": "cursor",
        "cursor_param": "after",
        "cursor_from": "last_record.id",
        "has_more_path": "has_more",
    },
    "next_url": {"type": "next_url", "next_url_path": "next_url"},
    "header_link": {"type": "header_link"},
}


def row(number: int) -> dict[str, Any]:
    return {"id": number, "seq": number, "name": f"row {number}"}


def stream(paginator: str, *, total: bool, row_order: str) -> dict[str, Any]:
    block = dict(PAGINATORS[paginator])
    if total:
        block.update({"total_header": "X-Total"} if paginator == "header_link" else {"total_path": "total"})
    return {
        "name": "rows",
        "path": "/rows",
        "records": {"path": "data"},
        "paginator": block,
        "primary_keys": ["id"],
        "incremental": {"replication_key": "seq", "type": "integer", "row_order": row_order},
    }


@dataclass
class Liar:
    """Answers honestly, then lets the fault change the answer. `turn` counts requests from 1."""

    paginator: str
    fault: Fault
    rows: list[dict[str, Any]] = field(default_factory=lambda: [row(n) for n in range(1, ROWS + 1)])
    cap: int | None = None
    turn: int = 0
    ever_removed: set[int] = field(default_factory=set)
    added: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, asked: Asked) -> Answer:
        with self.lock:
            self.turn += 1
            self.fault.before(self, asked)
            start = self.start_of(asked)
            answer = self.honest(asked, start)
            return self.fault.after(self, asked, start // PAGE + 1, answer)

    def size(self, asked: Asked) -> int:
        size = int(asked.params.get("limit", PAGE))
        return min(size, self.cap) if self.cap else size

    def start_of(self, asked: Asked) -> int:
        if self.paginator.startswith("page"):
            return (int(asked.params.get("page", 1)) - 1) * self.size(asked)
        if self.paginator.startswith("last_record"):
            after = int(asked.params.get("after", 0))
            return sum(r["id"] <= after for r in self.rows)
        return int(asked.params.get("offset") or asked.params.get("cursor") or 0)

    def honest(self, asked: Asked, start: int) -> Answer:
        if self.paginator == "single":
            return self.answer(self.rows, len(self.rows))
        page = self.rows[start : start + self.size(asked)]
        return self.answer(page, start + len(page))

    def answer(self, page: list[dict[str, Any]], after: int) -> Answer:
        more = bool(page) and after < len(self.rows)
        body: dict[str, Any] = {
            "data": page,
            "total": len(self.rows),
            "pages": -(-len(self.rows) // (self.cap or PAGE)),
            "has_more": more,
            "next": str(after) if more else None,
            "next_url": f"/rows?cursor={after}" if more else None,
        }
        links = [f'</rows?cursor={after}>; rel="next"'] if more else []
        links.append('</rows>; rel="first"')
        return Answer(body, headers={"X-Total": str(len(self.rows)), "Link": ", ".join(links)})


Change = Callable[[Liar, Asked, int, Answer], Answer]


@dataclass(frozen=True)
class Fault:
    """What is done before an answer, and to it. `page` is that of the first row asked for, counted from 1."""

    name: str
    after: Change = lambda liar, asked, page, answer: answer
    before: Callable[[Liar, Asked], None] = lambda liar, asked: None


def on_page(change: Callable[[Answer], Answer]) -> Change:
    """Always when the faulty page is asked for."""
    return lambda liar, asked, page, answer: change(answer) if page == _faulty(liar) else answer


def once(change: Callable[[Answer], Answer]) -> Change:
    """At the third request only (the first of a single-page scan)."""
    return lambda liar, asked, page, answer: change(answer) if liar.turn == _faulty(liar) else answer


def _faulty(liar: Liar) -> int:
    return 1 if liar.paginator == "single" else FAULTY_PAGE


def _without(answer: Answer, *names: str) -> Answer:
    return Answer({k: v for k, v in answer.body.items() if k not in names}, answer.status, answer.headers)


def _with(answer: Answer, **values: Any) -> Answer:
    headers = {**answer.headers, **({"X-Total": str(values["total"])} if "total" in values else {})}
    return Answer({**answer.body, **values}, answer.status, headers)


def _renamed(answer: Answer) -> Answer:
    return Answer({**_without(answer, "data").body, "items": answer.body["data"]}, headers=answer.headers)


def _cut(answer: Answer) -> Answer:
    return Answer(json.dumps(answer.body).encode()[:-20], headers=answer.headers, cut=True)


def _torn(answer: Answer) -> Answer:
    return Answer(json.dumps(answer.body).encode()[:-20], headers=answer.headers)


def _html(answer: Answer) -> Answer:
    return Answer(b"<html><body>Down for maintenance</body></html>", headers={"Content-Type": "text/html"})


def _cycle(liar: Liar, asked: Asked, page: int, answer: Answer) -> Answer:
    """Positional paging: the page parameter is ignored. Leads: page 4 leads back to page 2."""
    if liar.paginator == "single":
        return answer
    if liar.paginator.startswith(("page", "offset")):
        return liar.answer(liar.rows[:PAGE], PAGE)
    if liar.paginator.startswith("last_record"):
        return liar.answer(liar.rows[PAGE : 2 * PAGE], 2 * PAGE) if page == 4 else answer
    if page != 4:
        return answer
    link = {"Link": f'</rows?cursor={PAGE}>; rel="next"'}
    return Answer({**answer.body, "next": str(PAGE), "next_url": f"/rows?cursor={PAGE}"}, headers=link)


def _remove_first(liar: Liar, asked: Asked) -> None:
    if liar.turn == FAULTY_PAGE:
        liar.ever_removed |= {r["id"] for r in liar.rows[:3]}
        del liar.rows[:3]


def _insert_first(liar: Liar, asked: Asked) -> None:
    if liar.turn == FAULTY_PAGE:
        liar.added |= {-1, -2, -3}
        liar.rows[:0] = [row(n) for n in (-3, -2, -1)]


def _cap(liar: Liar, asked: Asked) -> None:
    liar.cap = 4


def _lost_lead(answer: Answer) -> Answer:
    return Answer({**answer.body, "next": None, "next_url": None, "has_more": True}, headers={"X-Total": str(ROWS)})


def _bare_404(answer: Answer) -> Answer:
    return Answer({"error": "no such page"}, 404)


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("honest"),
        Fault("page_cap", before=_cap),
        Fault("renamed_key", lambda liar, asked, page, answer: _renamed(answer)),
        Fault("renamed_key_from_page_3", on_page(_renamed)),
        Fault("null_records", on_page(lambda answer: _with(answer, data=None))),
        Fault("null_records_once", once(lambda answer: _with(answer, data=None))),
        Fault("object_for_list", on_page(lambda answer: _with(answer, data={"id": 1}))),
        Fault("missing_records", on_page(lambda answer: _without(answer, "data"))),
        Fault("missing_records_once", once(lambda answer: _without(answer, "data"))),
        Fault("error_in_200", on_page(lambda answer: Answer({"error": "quota"}))),
        Fault("error_in_200_once", once(lambda answer: Answer({"error": "quota"}))),
        Fault("cut_body", on_page(_cut)),
        Fault("cut_body_once", once(_cut)),
        Fault("torn_json", on_page(_torn)),
        Fault("torn_json_once", once(_torn)),
        Fault("html", on_page(_html)),
        Fault("html_once", once(_html)),
        Fault("status_204", on_page(lambda answer: Answer(None, 204))),
        Fault("status_204_once", once(lambda answer: Answer(None, 204))),
        Fault("status_500", on_page(lambda answer: Answer({}, 500))),
        Fault("status_404_in_the_middle", on_page(_bare_404)),
        Fault("status_404_in_the_middle_once", once(_bare_404)),
        Fault(
            "status_404_past_the_end", lambda liar, a, p, answer: answer if answer.body["data"] else _bare_404(answer)
        ),
        Fault("status_400_past_the_end", lambda liar, a, p, answer: answer if answer.body["data"] else Answer({}, 400)),
        Fault("empty_middle_page", on_page(lambda answer: _with(answer, data=[]))),
        Fault("empty_middle_page_once", once(lambda answer: _with(answer, data=[]))),
        Fault("cycle", _cycle),
        Fault("rows_removed_before", before=_remove_first),
        Fault("rows_inserted_before", before=_insert_first),
        Fault("total_too_high", lambda liar, asked, page, answer: _with(answer, total=ROWS + 7, pages=9)),
        Fault("total_too_low", lambda liar, asked, page, answer: _with(answer, total=PAGE, pages=1)),
        Fault("total_zero", lambda liar, asked, page, answer: _with(answer, total=0, pages=0)),
        Fault("total_null", lambda liar, asked, page, answer: _with(answer, total=None, pages=None)),
        Fault("total_a_word", lambda liar, asked, page, answer: _with(answer, total="many", pages="some")),
        Fault("has_more_without_lead", on_page(_lost_lead)),
        Fault("has_more_for_ever", lambda liar, asked, page, answer: _with(answer, has_more=True)),
    )
}
