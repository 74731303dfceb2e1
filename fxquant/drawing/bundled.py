"""Run as a script: DOT on stdin → a picture on stdout, by the Graphviz libraries that pygraphviz brings along.

A process of its own, so that a layout that does not end can be killed. It imports nothing of fxquant.
"""

from __future__ import annotations

import sys
import warnings


def main(picture_format: str, folder: str) -> None:
    """`folder` is where the parent process finds pygraphviz."""
    sys.path.append(folder)
    import pygraphviz

    warnings.simplefilter("ignore")  # pygraphviz warns about whatever Graphviz says on stderr, fonts for instance
    graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode("utf-8"))
    sys.stdout.buffer.write(graph.draw(format=picture_format, prog="dot"))


if __name__ == "__main__":
    main(*sys.argv[1:3])
