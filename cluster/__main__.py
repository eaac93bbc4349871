"""``python3 -m cluster``: the commands behind the Makefile."""

from __future__ import annotations

import argparse
import sys

from . import cache, engine, images, local, node_image, tools
from .shell import Problem, fail, say


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m cluster", description="The local kind cluster of Hub Steward.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in {
        "up": "create the cluster if need be, install this clone's chart, say how to log in",
        "down": "remove the cluster, and the Docker engine's process if this started it",
        "images": "build the images only",
        "node": "make the node image only",
        "tools": "build kind, kubectl, helm and the rest only; prints the directory to put on PATH",
        "uv": "print the path of uv, installing it if it is missing",
        "clean-cache": "remove every build and download",
    }.items():
        command = commands.add_parser(name, help=about, description=about)
        if name in ("up", "down"):
            command.add_argument("--name", default="hub-steward", help="name of the kind cluster")
            command.add_argument("--port", type=int, default=30080, help="port of the page on this machine")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except Problem as problem:
        return fail(problem)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def run(arguments: argparse.Namespace) -> None:
    match arguments.command:
        case "up":
            target = local.Target(name=arguments.name, port=arguments.port)
            local.up(target)
            local.tell(target)
        case "down":
            local.down(local.Target(name=arguments.name, port=arguments.port))
        case "images":
            engine.ensure()
            for reference in images.build_all().values():
                say(reference)
        case "node":
            engine.ensure()
            say(node_image.ensure())
        case "tools":
            tools.program("kubeconform")
            say(str(tools.bin_directory()))
        case "uv":
            print(tools.uv())
        case "clean-cache":
            cache.clear()


if __name__ == "__main__":
    sys.exit(main())
