"""The public Python names as a page: signatures and docstrings, read from the source, so that nothing is imported."""

import ast
import re
from typing import NamedTuple

from support.texts import PACKAGE

__all__ = ["PUBLIC", "api_page"]


class Name(NamedTuple):
    """A public class, function or method; of a class its docstring is shown, ``Class.__init__`` gives its arguments."""

    module: str
    path: str
    shown: str


PUBLIC = (
    Name("groups/topic", "Topic", "kombu_hake.Topic"),
    Name("groups/topic", "Topic.on", "Topic.on"),
    Name("groups/topic", "Topic.publish", "Topic.publish"),
    Name("groups/topic", "Topic.publish_on_commit", "Topic.publish_on_commit"),
    Name("groups/topic", "Topic.send", "Topic.send"),
    Name("groups/topic", "Topic.event", "Topic.event"),
    Name("groups/topic", "Topic.event_type", "Topic.event_type"),
    Name("groups/topic", "EventType", "EventType"),
    Name("groups/topic", "EventType.publish", "EventType.publish"),
    Name("groups/topic", "EventType.publish_on_commit", "EventType.publish_on_commit"),
    Name("groups/topic", "EventType.send", "EventType.send"),
    Name("groups/topic", "EventType.on", "EventType.on"),
    Name("groups/topic", "Event", "Event"),
    Name("groups/topic", "Event.result", "Event.result"),
    Name("groups/topic", "Event.results", "Event.results"),
    Name("groups/topic", "Event.revoke", "Event.revoke"),
    Name("publish/batching", "batch", "kombu_hake.batch"),
    Name("publish/batching", "Batch.flush", "Batch.flush"),
    Name("admin/connection", "connect", "kombu_hake.admin.connect"),
    Name("admin/connection", "group_names", "kombu_hake.admin.group_names"),
    Name("admin/connection", "Admin", "Admin"),
    Name("admin/connection", "Admin.queues", "Admin.queues"),
    Name("admin/connection", "Admin.groups", "Admin.groups"),
    Name("admin/connection", "Admin.dead_letters", "Admin.dead_letters"),
    Name("admin/connection", "Admin.requeue", "Admin.requeue"),
    Name("admin/connection", "Admin.purge_dead_letters", "Admin.purge_dead_letters"),
    Name("admin/connection", "Admin.purge_queue", "Admin.purge_queue"),
    Name("admin/connection", "Admin.remove_abandoned", "Admin.remove_abandoned"),
    Name("admin/connection", "Admin.delete_namespace", "Admin.delete_namespace"),
    Name("admin/connection", "Admin.check", "Admin.check"),
    Name("admin/check/running", "CheckReport", "CheckReport"),
    Name("admin/check/running", "CheckReport.is_clean", "CheckReport.is_clean"),
    Name("admin/check/running", "CheckReport.as_dict", "CheckReport.as_dict"),
    Name("admin/check/findings", "Finding", "Finding"),
    Name("admin/check/rights", "Right", "Right"),
    Name("admin/check/probe", "Probed", "Probed"),
    Name("admin/connection", "Admin.export_terraform", "Admin.export_terraform"),
    Name("admin/connection", "Admin.export_cloudformation", "Admin.export_cloudformation"),
    Name("admin/connection", "Admin.export_iam", "Admin.export_iam"),
    Name("admin/connection", "Admin.export_alarms", "Admin.export_alarms"),
    Name("admin/connection", "Admin.plan", "Admin.plan"),
    Name("admin/connection", "Admin.apply", "Admin.apply"),
    Name("admin/queues", "QueueInfo", "QueueInfo"),
    Name("admin/queues", "breaches", "kombu_hake.admin.breaches"),
    Name("admin/queues", "Group", "Group"),
    Name("admin/queues", "Binding", "Binding"),
    Name("admin/dead_letters", "Selection", "kombu_hake.admin.Selection"),
    Name("admin/dead_letters", "DeadLetter", "DeadLetter"),
    Name("admin/dead_letters", "DeadLetter.message_id", "DeadLetter.message_id"),
    Name("admin/dead_letters", "DeadLetter.task", "DeadLetter.task"),
    Name("admin/dead_letters", "DeadLetter.task_id", "DeadLetter.task_id"),
    Name("admin/dead_letters", "DeadLetter.event_id", "DeadLetter.event_id"),
    Name("admin/dead_letters", "DeadLetter.reason", "DeadLetter.reason"),
    Name("admin/dead_letters", "DeadLetter.exception", "DeadLetter.exception"),
    Name("admin/dead_letters", "DeadLetter.message", "DeadLetter.message"),
    Name("admin/dead_letters", "DeadLetter.deaths", "DeadLetter.deaths"),
    Name("admin/dead_letters", "DeadLetter.age_s", "DeadLetter.age_s"),
    Name("admin/dead_letters", "DeadLetter.as_dict", "DeadLetter.as_dict"),
    Name("admin/dead_letters", "Outcome", "Outcome"),
    Name("admin/plan", "Plan", "Plan"),
    Name("admin/plan", "Change", "Change"),
    Name("admin/plan", "Undeclared", "Undeclared"),
    Name("admin/plan", "Applied", "Applied"),
    Name("temporary/janitor", "Report", "kombu_hake.admin.Report"),
    Name("temporary/janitor", "Found", "Found"),
    Name("admin/worker_health", "health", "kombu_hake.admin.health"),
    Name("health", "read", "kombu_hake.health.read"),
    Name("health", "Health", "Health"),
    Name("health", "Stuck", "Stuck"),
    Name("testing", "embedded_aws", "kombu_hake.testing.embedded_aws"),
    Name("testing", "EmbeddedAWS", "EmbeddedAWS"),
    Name("testing", "EmbeddedAWS.endpoint_url", "EmbeddedAWS.endpoint_url"),
    Name("testing", "EmbeddedAWS.url", "EmbeddedAWS.url"),
    Name("testing", "EmbeddedAWS.in_namespace", "EmbeddedAWS.in_namespace"),
    Name("testing", "EmbeddedAWS.client", "EmbeddedAWS.client"),
    Name("testing", "EmbeddedAWS.reset", "EmbeddedAWS.reset"),
    Name("pytest_plugin", "hake_aws", "Fixture hake_aws"),
    Name("pytest_plugin", "hake_url", "Fixture hake_url"),
)
_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes):$")


def api_page() -> str:
    """Everything below the head of docs/api.md."""
    return "\n\n".join(_entry(name) for name in PUBLIC)


def _entry(name: Name) -> str:
    node = _node(name.module, name.path)
    doc = ast.get_docstring(node) or ""
    if isinstance(node, ast.ClassDef):
        init = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
        arguments = ast.get_docstring(init) if init else None
        signature = _signature(init) if init and arguments else ""  # else it is not for users to create
        doc += f"\n\n{arguments or ''}"
    else:
        decorators = {ast.unparse(item) for item in node.decorator_list}
        signature = "" if decorators & {"property"} or name.module == "pytest_plugin" else _signature(node)
    head = f"### {name.shown}\n"
    if signature:
        head += f"\n```text\n{name.shown}{signature}\n```\n"
    return f"{head}\n{_markdown(doc)}"


def _node(module: str, path: str) -> ast.ClassDef | ast.FunctionDef:
    found: ast.AST = ast.parse((PACKAGE / f"{module}.py").read_text())
    for part in path.split("."):
        *_overloads, found = (
            item
            for item in getattr(found, "body", [])
            if isinstance(item, ast.ClassDef | ast.FunctionDef) and item.name == part
        )
    assert isinstance(found, ast.ClassDef | ast.FunctionDef)
    return found


def _signature(node: ast.FunctionDef) -> str:
    arguments = ast.parse(ast.unparse(node)).body[0]
    assert isinstance(arguments, ast.FunctionDef)
    for group in (arguments.args.posonlyargs, arguments.args.args):
        if group and group[0].arg == "self":
            del group[0]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None and node.name != "__init__" else ""
    return f"({ast.unparse(arguments.args)}){returns}"


def _markdown(doc: str) -> str:
    """Paragraphs as they are; what stands under ``Args:`` and the like as a list."""
    lines: list[str] = []
    in_section = False
    for line in doc.splitlines():
        section = _SECTION.match(line)
        if section:
            in_section = True
            lines += ["", f"**{section[1]}**", ""]
        elif in_section and re.match(r"    (\S[^:]*): ", line):
            lines.append(re.sub(r"^    (\S[^:]*): ", r"- `\1`: ", line))
        elif in_section and line.startswith("    "):
            lines.append("  " + line.strip() if line.startswith("        ") else line.strip())
        else:
            in_section = in_section and not line.strip()
            lines.append(line)
    text = re.sub(r":\w+:`~?(?:kombu_hake\.\w+\.)?([^`]*)`", r"`\1`", "\n".join(lines)).replace("``", "`")
    return re.sub(r"\n{3,}", "\n\n", text).strip()
