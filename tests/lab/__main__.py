"""Command line of the lab: `python -m tests.lab up|down|status|images|kubeconfig|shell`.

Only parses arguments and prints; everything is done by `tests.lab.cluster`.
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.lab import components, images, netns, teardown
from tests.lab.cluster import Lab
from tests.lab.settings import DEFAULT_NAME, LabError


def _up(lab: Lab, args: argparse.Namespace) -> None:
    lab.up()
    if args.images:
        images.ensure(lab)
    print(f"KUBECONFIG={lab.kubeconfig}")
    print(f"S3 endpoint {lab.s3_endpoint}, bucket {lab.s3_bucket}, credentials in {lab.paths.s3_config}")
    print("addresses work inside the lab's network namespace only: python -m tests.lab shell [-- command]")


def _down(lab: Lab, args: argparse.Namespace) -> None:
    lab.down()


def _status(lab: Lab, args: argparse.Namespace) -> None:
    for name in components.ALL:
        print(f"{name:26} {lab.component_state(name)}")
    if lab.is_up():
        print(lab.kubectl("get", "nodes,pods", "-A"), end="")
        return
    for trace in teardown.traces(lab.paths):
        print(f"left behind: {trace}")
    sys.exit(1)


def _images(lab: Lab, args: argparse.Namespace) -> None:
    alone = not lab.is_up()
    if alone:
        lab.up_containerd_only()
    try:
        wanted = [image for image in images.OURS if args.only in (None, image.directory)]
        images.ensure(lab, wanted)
    finally:
        if alone:
            lab.down()


def _kubeconfig(lab: Lab, args: argparse.Namespace) -> None:
    if not lab.kubeconfig.exists():
        raise LabError(f"lab {lab.paths.name!r} is not up; run `python -m tests.lab up`")
    print(lab.kubeconfig.read_text() if args.content else lab.kubeconfig)


def _shell(lab: Lab, args: argparse.Namespace) -> None:
    if not lab.paths.netns.exists():
        raise LabError(f"lab {lab.paths.name!r} is not up; run `python -m tests.lab up`")
    words = [word for word in args.command if word != "--"] or [os.environ.get("SHELL", "/bin/bash")]
    command = [*netns.enter_prefix(lab.paths.netns), *words]
    os.execvpe(command[0], command, lab.environment())


def main() -> None:
    """Parse the command line and run one verb."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="A real one-node Kubernetes for tests.")
    parser.add_argument(
        "--name", default=DEFAULT_NAME, help="which lab (default: %(default)s); each has its own namespace"
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="bring the cluster to a Ready node")
    up.add_argument("--images", action="store_true", help="also build and import our images")
    up.set_defaults(act=_up)
    verbs.add_parser("down", help="stop everything, leave no trace").set_defaults(act=_down)
    verbs.add_parser("status", help="state of each component; ends with 1 unless all is up").set_defaults(act=_status)
    build = verbs.add_parser("images", help="build and import our images; needs no running cluster")
    build.add_argument("--only", choices=[image.directory for image in images.OURS], default=None)
    build.set_defaults(act=_images)
    kubeconfig = verbs.add_parser("kubeconfig", help="print the path of the kubeconfig")
    kubeconfig.add_argument("--content", action="store_true", help="print the file instead of its path")
    kubeconfig.set_defaults(act=_kubeconfig)
    shell = verbs.add_parser("shell", help="a shell, or one command, inside the lab with kubectl, helm and S3 settings")
    shell.add_argument("command", nargs=argparse.REMAINDER)
    shell.set_defaults(act=_shell)
    args = parser.parse_args()
    try:
        args.act(Lab(args.name), args)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
