"""One page over many reports below a folder, the most pressing first, and a server for this machine alone."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

from firstcue.finding import Report
from firstcue.report import words

NAME = "index.html"
ORDER = ("shortcut", "inconclusive", "no shortcut found")


@dataclass(frozen=True)
class Entry:
    """One report of the index."""

    name: str
    link: str
    report: Report


def index(folder: str | Path) -> str:
    """The index as one self-contained page, sorted by verdict and worst group; links are relative to `folder`; a small script sorts it otherwise.

    Args:
        folder: Every `report.json` anywhere below it is listed; files that cannot be read are named with the reason.

    Raises:
        ValueError: If `folder` is not a folder.
    """
    from firstcue.report.html import inlined, render, script

    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; name one with reports below it.")
    entries: list[Entry] = []
    unreadable: list[tuple[str, str]] = []
    for path in sorted(root.rglob("report.json")):
        name = path.parent.relative_to(root).as_posix()
        try:
            entries.append(Entry(name, _link(path, root), Report.load(path)))
        except ValueError as error:
            unreadable.append((name, str(error)))
    entries.sort(key=_pressing)
    facts = {"entries": entries, "unreadable": unreadable, "total": len(entries)}
    return render("index.html", **facts, live=inlined(script("sort.js")) if entries else None)


def write_index(folder: str | Path) -> Path:
    """Write the index into `folder`; returns its path."""
    target = Path(folder) / NAME
    target.write_text(index(folder), encoding="utf-8")
    return target


def write_pages(folder: str | Path, *, interactive: bool = False) -> list[Path]:
    """Write the page of every readable report below `folder` beside it; returns their paths.

    Raises:
        MissingExtra: Interactive, without the extra `interactive`.
    """
    written = []
    for path in sorted(Path(folder).rglob("report.json")):
        try:
            report = Report.load(path)
        except ValueError:
            continue  # the index names it with the reason
        written.append(report.save_html(path.with_suffix(".html"), interactive=interactive))
    return written


def server(folder: str | Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of the files below `folder` on the loopback interface; the index is made anew at every visit.

    Args:
        folder: What to serve.
        port: 0 takes any free one; `server_port` has it.
    """
    return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=os.fspath(folder)))


def serve(folder: str | Path, port: int = 0, announce: Callable[[str], None] = print) -> None:
    """Serve `folder` to this machine until interrupted; the address is announced first."""
    with server(folder, port) as running:
        announce(f"http://127.0.0.1:{running.server_port}/")
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            return


class _Handler(SimpleHTTPRequestHandler):
    """Static files for this machine's own browser; a foreign name for it (DNS rebinding) is refused."""

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in ("127.0.0.1", "localhost"):
            self.send_error(403, "this server answers to 127.0.0.1 and localhost only")
        elif self.path in ("/", f"/{NAME}"):
            self._index()
        else:
            super().do_GET()

    def _index(self) -> None:
        page = index(self.directory).encode("utf-8")
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:
        """No line per request."""


def _link(path: Path, root: Path) -> str:
    page = path.with_suffix(".html")
    return quote((page if page.is_file() else path).relative_to(root).as_posix())


def _pressing(entry: Entry) -> tuple[int, float, str]:
    worst = entry.report.groups.worst_group
    known = worst.accuracy if worst is not None and worst.accuracy is not None else 2.0
    return ORDER.index(entry.report.verdict), known, words.shorten(entry.name)
