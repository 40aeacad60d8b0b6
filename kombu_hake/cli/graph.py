"""``celery -A shop hake graph``: the topology as a drawing, in Mermaid or DOT.

Topics are on the left, groups in the middle with their bindings as edges, handlers and dead letters on the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kombu_hake.cli.tools import connected
from kombu_hake.quoting import quoted

if TYPE_CHECKING:
    from kombu_hake.admin import Group

__all__ = ["dot", "graph", "mermaid"]


@click.command()
@click.option("--format", "form", type=click.Choice(["mermaid", "dot"]), default="mermaid", show_default=True)
@click.option("-o", "--output", type=click.File("w"), default="-", help="Write to a file instead of standard output.")
@click.pass_context
def graph(ctx: click.Context, form: str, output: Any) -> None:
    """Draw the topology: topics, the keys that groups are bound to, handlers, dead letters."""
    draw = {"mermaid": mermaid, "dot": dot}[form]
    with connected(ctx) as broker:
        output.write(draw(broker.groups()))


class _Node(NamedTuple):
    id: str
    kind: str  # topic, group, handler, dead
    label: str


class _Edge(NamedTuple):
    source: str
    target: str
    label: str


def _parts(groups: Sequence[Group]) -> tuple[list[_Node], list[_Edge]]:
    """Nodes in order of drawing, and edges; ids are unique, and legal in every format."""
    nodes: dict[tuple[str, str], _Node] = {}
    edges: dict[tuple[str, str], list[str]] = {}

    def node(kind: str, key: str, label: str) -> str:
        known = nodes.setdefault((kind, key), _Node(f"{kind}{len(nodes)}", kind, label))
        return known.id

    for group in groups:
        for item in group.bindings:
            node("topic", item.topic, quoted(item.topic))
    for group in groups:
        waiting = "" if group.ready is None else f"{group.ready} ready, {group.in_flight} in flight"
        mine = node("group", group.name, "\n".join(filter(None, (quoted(group.name), waiting or quoted(group.state)))))
        for item in group.bindings:
            topic = node("topic", item.topic, quoted(item.topic))
            edges.setdefault((topic, mine), []).append(quoted(item.key) or '""')
            for handler in item.handlers:
                edges.setdefault((mine, node("handler", f"{group.name} {handler}", quoted(handler))), [])
        if group.dead_queue:
            count = "?" if group.dead is None else group.dead
            dead = node("dead", group.dead_queue, f"{quoted(group.dead_queue)}\n{count} dead")
            edges.setdefault((mine, dead), ["failed"])
    return list(nodes.values()), [_Edge(*ends, ", ".join(labels)) for ends, labels in edges.items()]


def mermaid(groups: Sequence[Group]) -> str:
    """For Markdown that supports Mermaid, such as GitHub's."""
    shapes = {"topic": ('(["', '"])'), "group": ('["', '"]'), "handler": ('("', '")'), "dead": ('[/"', '"/]')}
    nodes, edges = _parts(groups)
    lines = ["flowchart LR"]
    for node in nodes:
        opening, closing = shapes[node.kind]
        label = _mermaid_text(node.label).replace("\n", "<br/>")
        lines.append(f"  {node.id}{opening}{label}{closing}")
    for edge in edges:
        arrow = "-.->" if edge.target.startswith("dead") else "-->"
        label = f'|"{_mermaid_text(edge.label)}"|' if edge.label else ""
        lines.append(f"  {edge.source} {arrow}{label} {edge.target}")
    return "\n".join(lines) + "\n"


#: Mermaid's own escapes.
_MERMAID = {char: f"#{ord(char)};" for char in "#&%`\\"} | {'"': "#quot;", "<": "#lt;", ">": "#gt;"}


def _mermaid_text(text: str) -> str:
    """A name is text: no markup, no Markdown (which begins with a backtick), no ``%%{…}%%`` directive."""
    return "".join(_MERMAID.get(char, char) for char in text)


def dot(groups: Sequence[Group]) -> str:
    """For Graphviz."""
    shapes = {"topic": "ellipse", "group": "box", "handler": 'box, style="rounded"', "dead": "note"}
    nodes, edges = _parts(groups)
    lines = ["digraph topology {", "  rankdir=LR;", '  node [fontname="sans-serif"]; edge [fontname="sans-serif"];']
    lines += [f"  {node.id} [label={_dot_text(node.label)}, shape={shapes[node.kind]}];" for node in nodes]
    for edge in edges:
        style = ", style=dashed" if edge.target.startswith("dead") else ""
        lines.append(f"  {edge.source} -> {edge.target} [label={_dot_text(edge.label)}{style}];")
    return "\n".join([*lines, "}"]) + "\n"


def _dot_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
