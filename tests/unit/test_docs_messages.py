"""Each warning and error in the log has an id of its own, which docs/messages.md explains; each error that is raised is
found there by its text."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from support.pages import DOCS, PAGES
from support.texts import PACKAGE, LogLine, Text, error_texts, log_lines

PAGE = (DOCS / "messages.md").read_text()
LINES = [line for line in log_lines() if line.is_warning]
#: Ids that no line may be given again.
RETIRED = re.findall(r"HAKE\d{3}", PAGE.partition("## Retired ids\n")[2].partition("\n## ")[0])


class Row(NamedTuple):
    """A row of the page; ``text`` has ``…`` for what is filled in, and may end before the line does."""

    id: str
    text: str
    meaning: str
    remedy: str


def rows(text: str) -> list[Row]:
    found = re.findall(r"^\| `(HAKE\d{3})` \| `(.*?)` \| (.*) \| (.*) \|$", text, re.MULTILINE)
    return [Row(*cells) for cells in found]


def sections() -> Iterator[tuple[str, list[tuple[int, int]], list[Row]]]:
    """Title, first and last number of each range, and rows of each section that has ids."""
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        sentence = re.search(r"^Ids (HAKE\d{3} to HAKE\d{3}(?:, HAKE\d{3} to HAKE\d{3})*)\.$", text, re.MULTILINE)
        if sentence is not None:
            ranges = re.findall(r"HAKE(\d{3}) to HAKE(\d{3})", sentence[1])
            yield title, [(int(first), int(last)) for first, last in ranges], rows(text)


ROWS = {row.id: row for row in rows(PAGE)}


def test_every_warning_has_an_id() -> None:
    assert [line.place for line in LINES if not line.id] == []


def test_lines_below_warning_have_no_id() -> None:
    assert [line for line in log_lines() if line.id and not line.is_warning] == []


def test_no_two_lines_have_the_same_id() -> None:
    assert [found for found, count in Counter(line.id for line in LINES).items() if count > 1] == []


def test_the_page_has_the_ids_of_the_code_once_each() -> None:
    assert sorted(row.id for row in rows(PAGE)) == sorted(line.id for line in LINES)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.id)
def test_an_id_means_what_the_page_says(line: LogLine) -> None:
    head = ROWS[line.id].text.removesuffix("…").rstrip()
    if line.words.strip("…"):
        assert line.words.startswith(head), "correct the row, or give a line with another meaning a new id"
    else:  # the text comes from elsewhere
        assert any(part in TEXTS for part in head.split("…") if len(part) > 11), head


def test_each_row_says_what_it_means_and_what_to_do() -> None:
    assert [row.id for row in ROWS.values() if len(row.meaning) < 3 or len(row.remedy) < 3] == []


def test_numbers_are_of_one_section_and_none_is_missing() -> None:
    """A number that is taken off the page could be given to another line."""
    found = list(sections())
    assert [ranges[0][0] // 100 for _, ranges, _ in found] == list(range(len(found)))
    for title, ranges, listed in found:
        ids = [row.id for row in listed]
        assert ids == sorted(ids), title
        hundred = ranges[0][0] // 100
        first_of_all = (hundred * 100 + 1, ranges[0][1])  # a further range is for one subject, and may begin anywhere
        expected = {
            f"HAKE{number:03}" for first, last in [first_of_all, *ranges[1:]] for number in range(first, last + 1)
        }
        retired = {one for one in RETIRED if one[:5] == f"HAKE{hundred}"}
        assert {*ids, *retired} == expected, f"{title}: list an id that is no longer logged under Retired ids"
    assert sum(len(listed) for *_, listed in found) == len(ROWS)


def test_a_retired_id_is_not_used() -> None:
    assert {*RETIRED} & {line.id for line in LINES} == set()


def test_pages_name_ids_that_exist() -> None:
    named = {found for page in PAGES for found in re.findall(r"HAKE\d{3}", page.read_text())}
    assert named <= {*ROWS, *RETIRED}


@pytest.mark.parametrize("text", error_texts(), ids=str)
def test_what_is_raised_is_found(text: Text) -> None:
    assert f"`{text.head}`" in PAGE, "run: python tests/unit/test_docs.py"


def constants() -> str:
    """All text in the source, with ``…`` for what is filled in."""
    trees = (ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py"))
    nodes = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(re.sub(r"%(?:\.\d)?[sdrf]", "…", text) for text in nodes if isinstance(text, str))


TEXTS = constants()
