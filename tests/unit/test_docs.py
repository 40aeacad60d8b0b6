"""The pages say what the code says: options, errors, modules, permissions, links.

The tables between ``<!-- name -->`` marks are made from the code: ``python tests/unit/test_docs.py`` writes them anew.
"""

import ast
import configparser
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for those who run this file as a script
from support.api import PUBLIC, api_page
from support.pages import DOCS, PAGES, README, REPOSITORY, ROOT, anchor, blocks, headings, links, page_id, target
from support.texts import error_texts

import kombu_hake
from kombu_hake import admin, exceptions, testing
from kombu_hake.admin.check.findings import CODES
from kombu_hake.admin.export.rights import ROLES, Resources, Role, policies
from kombu_hake.aws.error_table import _iam_action as iam_action
from kombu_hake.config.options import COMMON, OPTIONS, STORIES, WITHOUT_MEANING

PACKAGE = Path(kombu_hake.__file__).parent


# --- tables made from the code


def options_table() -> str:
    head = ["| option | default | what it is | when you set it |", "|---|---|---|---|"]
    common = [_option_row(name) for name in OPTIONS if name in COMMON]
    others = [_option_row(name) for name in OPTIONS if name not in COMMON]
    return "\n".join(["**Most set these**", "", *head, *common, "", "**Rarely needed**", "", *head, *others])


def _option_row(name: str) -> str:
    option = OPTIONS[name]
    cells = (_shown(option.default), _cell(option.summary) + _origin(option.aliases, option.env), _cell(STORIES[name]))
    return f"| `{name}` | {' | '.join(cells)} |"


def modules_table() -> str:
    rows = [f"| `{name}` | {_cell(sentence)} |" for name, sentence in modules()]
    return "\n".join(["| module | what it is |", "|---|---|", *rows])


def modules() -> Iterator[tuple[str, str]]:
    """Name and first paragraph of each module that has a docstring."""
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: (path.parent == PACKAGE, path)):
        text = ast.get_docstring(ast.parse(path.read_text()))
        if text and path.parent / path.name != PACKAGE / "__init__.py":
            plain = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text.split("\n\n")[0].replace("\n", " "))
            name = path.relative_to(PACKAGE).as_posix().removesuffix("__init__.py")
            yield name, plain.replace("``", "`")


def error_texts_table() -> str:
    rows = [f"| `{_cell(text.head)}` | [{text.error}](errors.md#{text.error.lower()}) |" for text in error_texts()]
    return "\n".join(["| text | class |", "|---|---|", *dict.fromkeys(rows)])


def check_table() -> str:
    rows = [
        f"| `{code}` | {known.severity} | {_cell(known.meaning)} {_cell(known.why)} | {_sentence(known.remedy)} |"
        for code, known in CODES.items()
    ]
    return "\n".join(["| code | severity | what it means | how to fix it |", "|---|---|---|---|", *rows])


def _sentence(text: str) -> str:
    return _cell(text[0].upper() + text[1:])


def metrics_table() -> str:
    from kombu_hake.telemetry import metrics, names  # imports OpenTelemetry

    usual = {names.SYSTEM, names.DESTINATION, names.OPERATION, names.OPERATION_TYPE, names.ERROR}
    rows = [(name, "counter", *item) for name, item in metrics.COUNTERS.items()]
    for name, item in metrics.HISTOGRAMS.items():
        rows.append((name, "histogram", item.unit, item.description, tuple(usual)))
    rows += [(names.POLL_AGE, "gauge", "s", metrics.POLL_AGE, (names.SYSTEM, names.DESTINATION))]
    head = ["| metric | kind | unit | attributes | what it is |", "|---|---|---|---|---|"]
    return "\n".join(
        head
        + [
            f"| `{name}` | {kind} | `{unit}` | {_attributes(attributes, usual)} | {description} |"
            for name, kind, unit, description, attributes in rows
        ]
    )


def _attributes(attributes: tuple[str, ...], usual: set[str]) -> str:
    if usual <= set(attributes):
        return "those above"
    return ", ".join(f"`{name}`" for name in attributes)


#: What the policies of docs/iam.md are about: everything of one namespace.
EXAMPLE = Resources(
    queues=("arn:aws:sqs:eu-west-1:123456789012:shop__*",),
    dead_queues=("arn:aws:sqs:eu-west-1:123456789012:shop__*",),
    topics=("arn:aws:sns:eu-west-1:123456789012:shop__*",),
    raised_topics=("arn:aws:sns:eu-west-1:123456789012:shop__*",),
)
EXAMPLE_CONTROL = Resources(
    temporary_queues=EXAMPLE.queues, namespace=EXAMPLE.queues, control_topics=EXAMPLE.topics
)  # fmt: skip


def policy(role: Role, resources: Resources = EXAMPLE) -> str:
    [document] = policies(role, resources)
    text = json.dumps(document, indent=2)
    # Short lists on one line, as people write them.
    text = re.sub(
        r"\[\s+([^\[\]{}]*?)\s+\]",
        lambda match: f"[{' '.join(match[1].split())}]" if len(" ".join(match[1].split())) < 90 else match[0],
        text,
    )
    return f"```json\n{text}\n```"


TABLES: Mapping[Path, Mapping[str, Callable[[], str]]] = {
    DOCS / "options.md": {"options": options_table},
    DOCS / "cli.md": {"check": check_table},
    DOCS / "design.md": {"modules": modules_table},
    DOCS / "api.md": {"api": api_page},
    DOCS / "iam.md": {
        **{f"role: {role}": partial(policy, role) for role in ROLES},
        "role: remote-control": partial(policy, "consumer", EXAMPLE_CONTROL),
    },
    DOCS / "messages.md": {"error-texts": error_texts_table},
    DOCS / "monitoring.md": {"metrics": metrics_table},
}


def with_table(text: str, name: str, table: str) -> str:
    mark, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, _, rest = text.partition(mark)
    return f"{head}{mark}{table}\n{end}{rest.partition(end)[2]}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _shown(default: Any) -> str:
    if default in (None, "", {}):
        return ""
    if isinstance(default, tuple):
        return "`" + ", ".join(default) + "`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _origin(aliases: tuple[str, ...], env: tuple[str, ...]) -> str:
    notes = [f"`sqs://`: `{alias}`." for alias in aliases]
    if env:
        notes.append("Environment: " + ", ".join(f"`{name}`" for name in env) + ".")
    return "".join(f" {note}" for note in notes)


def test_the_table_of_options_is_that_of_the_code() -> None:
    text = (DOCS / "options.md").read_text()
    assert with_table(text, "options", options_table()) == text, "run: python tests/unit/test_docs.py"


def test_the_table_of_findings_is_that_of_the_code() -> None:
    text = (DOCS / "cli.md").read_text()
    assert with_table(text, "check", check_table()) == text, "run: python tests/unit/test_docs.py"


def test_the_policies_of_roles_are_those_of_the_code() -> None:
    text = (DOCS / "iam.md").read_text()
    for name, made in TABLES[DOCS / "iam.md"].items():
        assert f"<!-- {name} -->" in text
        assert with_table(text, name, made()) == text, "run: python tests/unit/test_docs.py"


def test_the_table_of_modules_names_each_module() -> None:
    table = (DOCS / "design.md").read_text().partition("<!-- modules -->")[2]
    listed = re.findall(r"^\| `([\w/.]+)` \|", table, re.MULTILINE)
    assert listed == [name for name, _ in modules()], "run: python tests/unit/test_docs.py"


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    text = (DOCS / "monitoring.md").read_text()
    assert with_table(text, "metrics", metrics_table()) == text, "run: python tests/unit/test_docs.py"


def test_the_page_of_python_names_is_that_of_the_code() -> None:
    text = (DOCS / "api.md").read_text()
    assert with_table(text, "api", api_page()) == text, "run: python tests/unit/test_docs.py"


def test_the_page_of_python_names_has_all_that_the_package_exports() -> None:
    exported = {f"kombu_hake.{name}" for name in kombu_hake.__all__} - {"kombu_hake.__version__"}
    exported |= {f"kombu_hake.testing.{name}" for name in testing.__all__ if name.islower()}
    assert exported <= {name.shown for name in PUBLIC}
    assert set(admin.__all__) <= {name.path for name in PUBLIC}


# --- pages written by hand


def test_every_option_has_a_user_who_sets_it() -> None:
    assert list(STORIES) == list(OPTIONS)
    assert set(OPTIONS) > COMMON
    assert [story for story in STORIES.values() if not story.endswith(".")] == []


def test_every_option_has_a_section() -> None:
    assert [h for h in headings(DOCS / "options.md") if h in OPTIONS] == list(OPTIONS)


def test_no_section_is_about_an_option_that_is_gone() -> None:
    sections = re.findall(r"^### (.*)$", (DOCS / "options.md").read_text(), re.MULTILINE)
    assert set(sections) == set(OPTIONS)


def test_every_option_of_sqs_without_meaning_is_named() -> None:
    page = (DOCS / "options.md").read_text()
    assert [name for name in WITHOUT_MEANING if f"`{name}`" not in page] == []


def test_every_error_has_a_section() -> None:
    assert sorted(h for h in headings(DOCS / "errors.md") if h != "Errors") == sorted(exceptions.__all__)


def test_bases_of_an_error_that_users_catch_are_named() -> None:
    page = (DOCS / "errors.md").read_text()
    for name in exceptions.__all__:
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for base in vars(exceptions)[name].__bases__:
            if base.__module__ != exceptions.__name__ and base.__name__ != "KombuError":
                assert f"{base.__name__}`" in section, f"{name} is also a {base.__name__}"


def test_every_action_that_the_code_calls_is_in_the_permissions() -> None:
    granted = {
        action
        for block in blocks(DOCS / "iam.md", "json")
        if block.mark.startswith("role: ")
        for statement in json.loads(block.code)["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    called = {
        f"{service}:{iam_action(operation)}"
        for path in PACKAGE.rglob("*.py")
        for service, operation in re.findall(r"\.(sqs|sns|s3|cloudwatch)\(\s*\"(\w+)\"", path.read_text())
    }
    assert len(called) > 20
    assert called - granted == set()
    # For the tags that create_topic is given, for uploads that fail, and to tell a missing object from a denied one.
    assert granted - called <= {"sns:TagResource", "s3:AbortMultipartUpload", "s3:ListBucket"}


def test_extras_that_the_pages_install_exist() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    named = {extra for page in PAGES for extra in re.findall(r"kombu-hake\[(\w+)\]", page.read_text())}
    assert named <= set(config["options.extras_require"])


def test_make_targets_that_the_pages_name_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {t for page in PAGES for t in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert named
    assert named <= targets


def test_modules_that_the_pages_name_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"`([a-z_0-9]+/[a-z_0-9/]*\.py)`", page.read_text("utf-8"))}
    assert "topology/diff.py" in named
    places = [ROOT / folder for folder in ("", "kombu_hake", "tests", "demo_project", "benchmarks")]
    assert [name for name in sorted(named) if not any((place / name).exists() for place in places)] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        found, fragment = target(page, link), link.partition("#")[2]
        if found is None:
            continue
        if not found.is_file() or (fragment and fragment not in map(anchor, headings(found))):
            broken.append(link)
    assert broken == []


def test_the_readme_fits_on_a_page_and_stands_alone() -> None:
    """The package index shows it, where a link within the repository leads nowhere."""
    assert len(README.read_text().splitlines()) <= 120
    assert [link for link in links(README) if not link.startswith("https://")] == []
    assert [link for link in links(README) if link.startswith(REPOSITORY + "/tree/")] == []


def test_project_urls_are_those_of_the_site() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    site = re.findall(r"^site_url: (https://[^/]+/)", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)[0]
    metadata = config["metadata"]
    urls = re.findall(r"https://\S+", f"{metadata.get('url', '')}\n{metadata.get('project_urls', '')}")
    assert [url for url in urls if not f"{url}/".startswith((f"{REPOSITORY}/", site))] == []


def test_ten_questions_are_answered_within_two_clicks_from_the_readme() -> None:
    """That the links lead somewhere is seen by the test above; here, that none was lost."""
    overview = DOCS / "index.md"
    assert overview in {target(README, link) for link in links(README)}
    table = overview.read_text().partition("## Ten questions\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (How .*?\?|What .*?\?|Why .*?\?) \|(.*)\|$", table, re.MULTILINE)
    assert len(rows) == 10
    assert [question for question, answer in rows if "](" not in answer] == []


def test_every_page_is_reachable_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [README]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        found = [target(page, link) for link in links(page)]
        waiting += [path for path in found if path in PAGES]
    assert set(PAGES) <= seen


def main() -> None:
    """Write the tables that are made from the code."""
    for page, tables in TABLES.items():
        for name, table in tables.items():
            page.write_text(with_table(page.read_text(), name, table()))


if __name__ == "__main__":
    main()
