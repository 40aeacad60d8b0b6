"""Format the answers of commands as text. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kombu_hake.quoting import MARK, escaped, quoted

if TYPE_CHECKING:
    from kombu_hake.admin import Binding, CheckReport, DeadLetter, Group, QueueInfo, Report

__all__ = [
    "check_sheet",
    "dead_counts_table",
    "groups_table",
    "letter_sheet",
    "letters_table",
    "queues_table",
    "span",
    "temporaries_table",
]

_UNKNOWN = "?"
_NONE = "-"
_MAX_TEXT = 60
_MAX_NAME = 100
#: Maximum width of a cell: one long name must not widen the whole table.
_MAX_CELL = 500
#: A remedy may hold a policy statement.
_MAX_REMEDY = 10_000
#: Maximum length of a body, and of a traceback, in the sheet of one dead letter.
_MAX_SHOWN = 100_000
#: Deaths that a sheet shows. We write fewer, but a header may contain anything.
_MAX_DEATHS = 20
_INDENT = " " * 11
#: In the order in which they are counted.
_SEVERITIES = {"error": "error", "warning": "warning", "info": "remark"}


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns as wide as needed. Each row is one line, whatever its cells contain.

    Args:
        right: Indexes of the columns to align right.
    """
    lines = [list(header), *[[quoted(cell, _MAX_CELL) for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def span(seconds: float | None) -> str:
    """``45s``, ``12m``, ``3h``, ``2d``."""
    if seconds is None:
        return _NONE
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def groups_table(groups: Sequence[Group]) -> str:
    """One line per group with its counts, then one per binding."""
    if not groups:
        return (
            "This app has no groups. Topic(...).on(...) makes one, and its module must be imported by the app. "
            "'hake queues' shows the other queues."
        )
    bindings = [
        [item.topic, item.key or '""', group.name, ", ".join(item.handlers) or _NONE, _state(group, item)]
        for group in groups
        for item in group.bindings
    ]
    text = _counts_table("GROUP", groups, {group.name for group in groups if not group.is_ours})
    if bindings:
        text += "\n\n" + table(("TOPIC", "KEY", "GROUP", "HANDLERS HERE", "BOUND"), sorted(bindings))
    return text


def queues_table(queues: Sequence[QueueInfo]) -> str:
    """One line per queue with its counts."""
    return _counts_table("QUEUE", queues) if queues else "This app has no queues."


def _counts_table(what: str, queues: Sequence[QueueInfo], foreign: Collection[str] = ()) -> str:
    rows = [
        [
            queue.name + (" (others')" if queue.name in foreign else ""),
            *(_number(queue, name) for name in ("ready", "in_flight", "delayed")),
            _UNKNOWN if "oldest_s" in queue.unreadable else span(queue.oldest_s),
            _number(queue, "dead"),
            queue.dead_queue or _NONE,
            _number(queue, "undelivered"),
            queue.state,
        ]
        for queue in queues
    ]
    head = (what, "READY", "IN FLIGHT", "DELAYED", "OLDEST", "DEAD", "DEAD LETTERS IN", "UNDELIVERED", "STATE")
    return table(head, rows, right=(1, 2, 3, 4, 5, 7))


def _number(queue: QueueInfo, name: str) -> str:
    value = getattr(queue, name)
    if value is not None:
        return str(value)
    return _UNKNOWN if name in queue.unreadable or queue.state not in ("ok", "missing") else _NONE


def _state(group: Group, item: Binding) -> str:
    if item.is_bound is None:
        return _UNKNOWN
    if not item.is_bound:
        return "not yet"
    return "yes" if item.handlers or not group.is_ours else "yes, without handler"


def temporaries_table(report: Report, *, is_dry: bool) -> str:
    """One line per temporary queue, and the outcome for subscriptions whose queue is gone."""
    lines = []
    if report.queues:
        rows = [
            [one.name, one.kind, one.state, _due(one.due_in_s), one.who or _NONE]
            for one in sorted(report.queues, key=lambda one: (one.state, one.name))
        ]
        lines.append(table(("QUEUE", "KIND", "STATE", "MAY GO", "USED BY"), rows))
    else:
        lines.append("There are no temporary queues in this namespace.")
    if report.subscriptions:
        done = "would be removed" if is_dry else "removed"
        lines.append(f"Subscriptions of temporary queues that are gone, {done}: {len(report.subscriptions)}")
    return "\n\n".join(lines)


def _due(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return f"in {span(seconds)}" if seconds > 0 else f"since {span(-seconds)}"


def check_sheet(report: CheckReport) -> str:
    """One paragraph per finding, what the credentials may do, and a line that counts."""
    lines: list[str] = []
    for finding in report.findings:
        lines += [
            f"{finding.severity.upper()} {finding.code}: {quoted(finding.what, _MAX_CELL)}",
            f"  at   {quoted(finding.where, _MAX_CELL)}",
            f"  why  {finding.why}",
            f"  fix  {quoted(finding.remedy, _MAX_REMEDY)}",
            "",
        ]
    lines += [_rights_line(role, report) for role in dict.fromkeys(right.role for right in report.rights)]
    lines += [
        f"Probe: {quoted(', '.join(probed.subscriptions), _MAX_CELL)}: {probed.outcome} after {probed.seconds:.1f} s."
        for probed in report.probes
        if probed.outcome == "delivered"
    ]
    counts: Counter[str] = Counter(finding.severity for finding in report.findings)
    said = [_counted(counts[severity], word) for severity, word in _SEVERITIES.items() if counts[severity]]
    things = {"queue": report.queues, "topic": report.topics, "subscription": report.subscriptions}
    looked_at = ", ".join(_counted(number, word) for word, number in things.items())
    lines.append(f"{looked_at}: {', '.join(said) or 'no findings'}.")
    return "\n".join(lines)


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _rights_line(role: str, report: CheckReport) -> str:
    by_verdict: dict[str, dict[str, None]] = {}
    for right in report.rights:
        if right.role == role:
            by_verdict.setdefault(right.verdict, {})[right.action] = None
    parts = [
        f"{verdict}: {', '.join(by_verdict[verdict])}"
        for verdict in ("denied", "unknown", "not denied", "allowed")
        if verdict in by_verdict
    ]
    return f"As {role}: {'; '.join(parts)}."


def dead_counts_table(counts: Sequence[Mapping[str, Any]]) -> str:
    """One line per queue."""
    rows = [
        [row["group"], _NONE if row["dead"] is None else str(row["dead"]), row["dead_queue"] or _NONE] for row in counts
    ]
    return table(("QUEUE", "DEAD", "DEAD LETTERS IN"), rows, right=(1,))


def letters_table(letters: Sequence[DeadLetter]) -> str:
    """One line per dead letter."""
    if not letters:
        return "No dead letters."
    rows = [
        [
            _shortened(letter.task_id or letter.message_id, _MAX_NAME),
            span(letter.age_s),
            _shortened(letter.reason),
            _shortened(letter.task or _NONE, _MAX_NAME),
            _shortened(letter.contents),
            _shortened(f"{letter.exception}: {letter.message}" if letter.exception else letter.message or _NONE),
        ]
        for letter in letters
    ]
    return table(("ID", "AGE", "REASON", "TASK", "ARGUMENTS", "EXCEPTION"), rows, right=(1,))


def _shortened(text: str, most: int = _MAX_TEXT) -> str:
    return escaped(" ".join(text[:_MAX_SHOWN].split()), most)


def letter_sheet(letter: DeadLetter) -> str:
    """Everything about one dead letter. Its content is indented, so that it cannot look like a line of the sheet."""
    facts = [
        ("message", letter.message_id),
        ("task", letter.task),
        ("task id", letter.task_id),
        ("event", _event(letter)),
        ("reason", letter.reason),
        ("age", span(letter.age_s)),
        ("arguments" if letter.task else "body", letter.contents),
    ]
    lines = [f"{name + ':':11}{_indented(value, _INDENT)}" for name, value in facts if value]
    deaths = letter.deaths
    for number, death in enumerate(deaths[:_MAX_DEATHS], 1):
        lines.append("")
        lines.append(
            f"death {number} of {len(deaths)}: {quoted(death.get('time'))} {quoted(death.get('reason'))}"
            + (f", after {quoted(death['retries'])} retries" if death.get("retries") else "")
            + (f", on {quoted(death['worker'])}" if death.get("worker") else "")
        )
        text = death.get("traceback") or death.get("message") or ""
        text = text if isinstance(text, str) else quoted(text, _MAX_SHOWN)
        lines.append("  " + _indented(text.rstrip(), "  "))
    if len(deaths) > _MAX_DEATHS:
        lines.append(f"\n{MARK} and {len(deaths) - _MAX_DEATHS} more")
    return "\n".join(lines)


def _indented(text: str, indent: str) -> str:
    """Lines after the first one begin with *indent*."""
    return escaped(text, _MAX_SHOWN, keep="\n").replace("\n", "\n" + indent)


def _event(letter: DeadLetter) -> str | None:
    event = letter.headers.get("hake_event")
    if not isinstance(event, Mapping):
        return None
    return f"{quoted(event.get('key'))} of topic {quoted(event.get('topic'))}, id {quoted(event.get('id'))}"
