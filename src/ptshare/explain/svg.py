# SPDX-License-Identifier: MIT
"""The picture as SVG: processes on the left, hosts on the right, links between them."""

from collections.abc import Sequence
from xml.etree import ElementTree

from ptshare.explain.picture import Domain, Picture
from ptshare.explain.script import say_place
from ptshare.explain.text import Group, groups, words

__all__ = ["draw"]

_ROW, _BOX, _INDENT, _WIDTH = 30, 22, 24, 330
_MARGIN, _GAP = 20, 190
_HOSTS_X = _MARGIN + _WIDTH + 3 * _INDENT + _GAP
_FONT = "DejaVu Sans Mono, Menlo, Consolas, monospace"

#: What a box or line is -> how it looks, and what the legend says.
_LOOKS = {
    "own": ("#e8eaed", "#5f6368", "a process's own table"),
    "host": ("#d7ecd9", "#2e7d32", "a table of a host, shared"),
    "link": ("#fde3cf", "#c2410c", "a link: an entry that leads to a host's table"),
}


def draw(picture: Picture, title: str) -> str:
    """The picture as a file of its own."""
    return _Drawing(picture, title).done()


class _Drawing:
    def __init__(self, picture: Picture, title: str) -> None:
        self.picture = picture
        self.root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "font-family": _FONT})
        ElementTree.SubElement(self.root, "title").text = title
        ElementTree.SubElement(self.root, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
        self._text(_MARGIN, _MARGIN + 6, title, size=15, bold=True)
        #: Where the box of a host's table is: number of the domain and key -> left edge, middle.
        self.hosts: dict[tuple[int, str], tuple[int, int]] = {}
        #: Right edge, middle, number of the domain, and keys of each box of links.
        self.links: list[tuple[int, int, int, list[str]]] = []
        right = self._hosts(_MARGIN + 2 * _ROW)
        left = self._processes(_MARGIN + 2 * _ROW)
        self._curves()
        self.height = max(left, right) + _ROW
        self._legend()

    def done(self) -> str:
        width = _HOSTS_X + _WIDTH + 3 * _INDENT + _MARGIN
        self.root.set("width", str(width))
        self.root.set("height", str(self.height))
        self.root.set("viewBox", f"0 0 {width} {self.height}")
        ElementTree.indent(self.root)
        return ElementTree.tostring(self.root, encoding="unicode") + "\n"

    def _hosts(self, y: int) -> int:
        for domain in self.picture.domains:
            self._text(_HOSTS_X, y, f"host of {domain.name}", bold=True)
            y = self._tree(groups(self.picture, domain), _HOSTS_X, y + _ROW // 2, domain) + _ROW
        return y

    def _processes(self, y: int) -> int:
        for process in self.picture.processes:
            self._text(_MARGIN, y, process.name, bold=True)
            for guest in process.guests:
                y += 18
                window = f"{say_place(guest.start)} to {say_place(guest.end)}"
                domain = self.picture.domain(guest.domain)
                self._text(_MARGIN, y, f"{window}: {domain.name} from {say_place(guest.offset)}")
            y = self._tree(groups(self.picture, process), _MARGIN, y + _ROW // 2, None) + _ROW
        return y

    def _tree(self, found: Sequence[Group], x: int, y: int, domain: Domain | None) -> int:
        """Boxes for groups and what is below them; where the next one can be."""
        for group in found:
            node, middle = group.first, y + _BOX // 2
            self._box(x, y, group)
            keys = [node.key for node in group.nodes]
            if domain is not None:
                self.hosts.update({(domain.number, key): (x, middle) for key in keys})
            elif node.domain is not None:
                self.links.append((x + _WIDTH, middle, node.domain, keys))
            above = y + _BOX
            y += _ROW
            if len(group.nodes) > 1 and group.below:
                self._text(x + _INDENT, y + 12, "each:")
                y += _ROW - 8
            for below in group.below:
                line = f"M{x + 10} {above} V{y + _BOX // 2} H{x + _INDENT}"
                ElementTree.SubElement(self.root, "path", {"d": line, "fill": "none", "stroke": "#5f6368"})
                # Only the first of those that are alike is drawn out, and of no other are there boxes.
                y = self._tree([below], x + _INDENT, y, domain)
        return y

    def _box(self, x: int, y: int, group: Group) -> None:
        node = group.first
        fill, stroke, _ = _LOOKS[node.kind]
        attributes = {"x": x, "y": y, "width": _WIDTH, "height": _BOX, "rx": 3 if node.kind != "link" else 11}
        box = ElementTree.SubElement(self.root, "g", {"class": node.kind})
        ElementTree.SubElement(
            box,
            "rect",
            {**{key: str(value) for key, value in attributes.items()}, "fill": fill, "stroke": stroke},
        )
        said = words(group).removeprefix("own ")
        if node.kind == "link":
            said = said.partition(" -> ")[0]
        address = ""
        if self.picture.addresses:
            address = node.key if len(group.nodes) == 1 else f"{node.key} .."
        self._text(x + 8, y + 15, said, parent=box)
        if address:
            self._text(x + _WIDTH - 8, y + 15, address, parent=box, anchor="end")
        if len(group.nodes) > 1:
            ElementTree.SubElement(box, "title").text = " ".join(one.key for one in group.nodes)

    def _curves(self) -> None:
        for x, y, domain, keys in self.links:
            ends = dict.fromkeys(self.hosts[domain, key] for key in keys if (domain, key) in self.hosts)
            for to_x, to_y in ends:
                bend = (to_x - x) // 2
                path = f"M{x} {y} C{x + bend} {y} {to_x - bend} {to_y} {to_x} {to_y}"
                ElementTree.SubElement(
                    self.root,
                    "path",
                    {"d": path, "fill": "none", "stroke": _LOOKS["link"][1], "stroke-width": "1.5"},
                )

    def _legend(self) -> None:
        x = _MARGIN
        for fill, stroke, said in _LOOKS.values():
            attributes = {"x": str(x), "y": str(self.height - 16), "width": "22", "height": "14"}
            ElementTree.SubElement(
                self.root, "rect", {**attributes, "fill": fill, "stroke": stroke, "class": "legend"}
            )
            self._text(x + 30, self.height - 5, said)
            x += 60 + 8 * len(said)
        self.height += _MARGIN

    def _text(
        self,
        x: int,
        y: int,
        said: str,
        size: int = 12,
        bold: bool = False,
        parent: ElementTree.Element | None = None,
        anchor: str = "start",
    ) -> None:
        attributes = {"x": str(x), "y": str(y), "font-size": str(size), "text-anchor": anchor}
        if bold:
            attributes["font-weight"] = "bold"
        element = ElementTree.SubElement(self.root if parent is None else parent, "text", attributes)
        element.text = "".join(letter if letter.isprintable() else "?" for letter in said)
