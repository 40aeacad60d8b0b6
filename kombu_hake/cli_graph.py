"""The topology as a drawing: Mermaid, DOT or SVG. Pure.

Topics are on the left, groups in the middle with their bindings as edges, and on the right what becomes of a message:
handlers, and dead letters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from kombu_hake.quoting import quoted

if TYPE_CHECKING:
    from kombu_hake.operations import Group

__all__ = ["dot", "mermaid", "svg"]


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
    """For Markdown that knows Mermaid, such as GitHub's."""
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
_MERMAID = {char: f"#{ord(char)};" for char in '#&%`\\'} | {'"': "#quot;", "<": "#lt;", ">": "#gt;"}


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


# --- SVG: three columns, each row as high as what the group at its middle needs

_CHAR, _LINE, _PAD, _GAP = 7.4, 17, 12, 14
_BETWEEN = 70
_FILLS = {"topic": "#dbe9ff", "group": "#e3f4e1", "handler": "#ffffff", "dead": "#fde3e0"}
_STYLE = (
    "text{font:13px ui-sans-serif,system-ui,sans-serif;fill:#1b1f24}"
    ".e{fill:none;stroke:#57606a}.d{stroke-dasharray:5 4}.k{font-size:12px;fill:#424a53}"
    ".k{paint-order:stroke;stroke:#fff;stroke-width:4px}"
)


class _Box(NamedTuple):
    node: _Node
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


def svg(groups: Sequence[Group]) -> str:
    """A picture that needs no other program; white background, so that it can be read everywhere."""
    nodes, edges = _parts(groups)
    boxes = _layout(nodes, edges)
    width = max((box.x + box.width for box in boxes.values()), default=0) + _PAD
    height = max((box.y + box.height for box in boxes.values()), default=0) + _PAD
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="Topics, groups and handlers">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#57606a"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#fff"/>',
        *_draw_edges(edges, boxes),
        *(line for box in boxes.values() for line in _draw_box(box)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _layout(nodes: Sequence[_Node], edges: Sequence[_Edge]) -> dict[str, _Box]:
    columns = [
        [node for node in nodes if node.kind == "topic"],
        [node for node in nodes if node.kind == "group"],
        [node for node in nodes if node.kind in ("handler", "dead")],
    ]
    longest = max((len(edge.label) for edge in edges if not edge.target.startswith(("handler", "dead"))), default=0)
    spaces = (_BETWEEN + longest * _CHAR, _BETWEEN + 40, 0)
    boxes: dict[str, _Box] = {}
    # From the right: what a group leads to says how high the group's row is.
    widths = [max((_width(node) for node in column), default=0) for column in columns]
    xs = [_PAD, _PAD + widths[0] + spaces[0], _PAD + widths[0] + spaces[0] + widths[1] + spaces[1]]
    y = float(_PAD)
    for group in columns[1]:
        targets = [edge.target for edge in edges if edge.source == group.id]
        row = [node for node in columns[2] if node.id in targets]
        start = y
        for node in row:
            boxes[node.id] = _Box(node, xs[2], y, widths[2], _height(node))
            y += _height(node) + _GAP
        y = max(y, start + _height(group) + _GAP)
        boxes[group.id] = _Box(group, xs[1], (start + y - _GAP - _height(group)) / 2, widths[1], _height(group))
        y += _GAP
    _place_topics(columns[0], edges, boxes, xs[0], widths[0])
    return boxes


def _place_topics(
    topics: Sequence[_Node], edges: Sequence[_Edge], boxes: dict[str, _Box], x: float, width: float
) -> None:
    """Each in the middle of its groups, and below the one before."""
    y = float(_PAD)
    for topic in topics:
        middles = [boxes[edge.target].middle for edge in edges if edge.source == topic.id]
        wanted = sum(middles) / len(middles) - _height(topic) / 2 if middles else y
        box = _Box(topic, x, max(y, wanted), width, _height(topic))
        boxes[topic.id] = box
        y = box.y + box.height + _GAP


def _width(node: _Node) -> float:
    return max(len(line) for line in node.label.split("\n")) * _CHAR + 2 * _PAD


def _height(node: _Node) -> float:
    return (node.label.count("\n") + 1) * _LINE + _PAD


def _draw_edges(edges: Sequence[_Edge], boxes: dict[str, _Box]) -> Iterator[str]:
    for edge in edges:
        source, target = boxes[edge.source], boxes[edge.target]
        x1, y1, x2, y2 = source.x + source.width, source.middle, target.x, target.middle
        bend = (x1 + x2) / 2
        style = "e d" if target.node.kind == "dead" else "e"
        yield (
            f'<path class="{style}" marker-end="url(#a)" '
            f'd="M{x1:.1f} {y1:.1f}C{bend:.1f} {y1:.1f} {bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"/>'
        )
        if edge.label:
            # Near its end, where the edges of one topic have parted, and on the side that the curve does not come from.
            y = y2 + (_LINE if y2 > y1 + 1 else -6)
            yield f'<text class="k" text-anchor="end" x="{x2 - 14:.1f}" y="{y:.1f}">{escape(edge.label)}</text>'


def _draw_box(box: _Box) -> Iterator[str]:
    radius = {"topic": box.height / 2, "handler": 8}.get(box.node.kind, 2)
    yield (
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" '
        f'rx="{radius:.1f}" fill="{_FILLS[box.node.kind]}" stroke="#57606a"/>'
    )
    for number, line in enumerate(box.node.label.split("\n")):
        weight = ' font-weight="600"' if number == 0 and box.node.kind in ("topic", "group") else ""
        yield (
            f'<text x="{box.x + box.width / 2:.1f}" y="{box.y + _PAD / 2 + (number + 0.75) * _LINE:.1f}" '
            f'text-anchor="middle"{weight}>{escape(line)}</text>'
        )
