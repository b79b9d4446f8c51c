"""The commands about runs on clusters, as the command line has them."""

import argparse
from collections.abc import Callable
from pathlib import Path

Command = Callable[[argparse.Namespace], int]
RUNS = Path("runs")
ROLES = ("actor", "learner", "store", "weights", "relay", "evaluator")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add submit, status, logs, stop, down, scale and doctor."""
    submit = commands.add_parser("submit", help="send a job to a Ray cluster or to Kubernetes")
    submit.add_argument("job", type=Path, help="the job file")
    submit.add_argument("overrides", nargs="*", metavar="key=value", help="put over the job file")
    to(submit, required=True)
    submit.add_argument("--name", help="of the run (default: JOB-N)")
    submit.add_argument("--runs", metavar="DIR", help="the folder for runs that all nodes share")
    submit.add_argument(
        "--with", dest="extras", type=Path, action="append", default=[], metavar="PATH",
        help="a file or folder that goes along, such as a module of your own; may be repeated",
    )  # fmt: skip
    submit.add_argument("--follow", action="store_true", help="listen until it is over")
    submit.add_argument("--dry-run", action="store_true", help="print what would be sent")
    _finish(submit, "submit")

    status = _of_run(commands, "status", "say how a run stands")
    status.add_argument("--watch", action="store_true", help="until it is over")
    logs = _of_run(commands, "logs", "print what a run and its workers say")
    logs.add_argument("-f", "--follow", action="store_true", help="until it is over")
    logs.add_argument("--role", choices=ROLES, default="", help="only workers of this role")
    for name, told in (
        ("stop", "have a run save and end"),
        ("down", "end a run and remove what it has on its target; its folder stays"),
    ):
        ending = _of_run(commands, name, told)
        ending.add_argument(
            "--grace", type=float, default=120.0, metavar="S", help="seconds to wait for it (120)"
        )
    scale = _of_run(commands, "scale", "have another number of actors while a run is running")
    scale.add_argument("--actors", type=int, required=True, metavar="N", help="how many")

    doctor = commands.add_parser(
        "doctor", help="see whether this machine, or a target, has all that a run needs"
    )
    doctor.add_argument("target", nargs="?", help="as for submit --to (default: this machine)")
    doctor.add_argument("--runs", type=Path, metavar="DIR", help="where runs would be kept")
    _finish(doctor, "doctor")


def to(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Say which target is meant."""
    parser.add_argument(
        "--to",
        required=required,
        metavar="TARGET",
        help="a Ray dashboard's address, NAMESPACE@CONTEXT of Kubernetes, or a name in targets.yaml"
        + ("" if required else " (default: this machine)"),
    )


def _of_run(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, told: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=told)
    parser.add_argument("run", help="its name; of a run on this machine also its folder")
    to(parser)
    parser.add_argument(
        "--runs",
        type=Path,
        default=RUNS,
        metavar="DIR",
        help="where this machine keeps runs (runs/)",
    )
    _finish(parser, name)
    return parser


def _finish(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=_command(name))


def _command(name: str) -> Command:
    def run(options: argparse.Namespace) -> int:
        from troupe.jobs import remote

        command: Command = getattr(remote, name)
        return command(options)

    return run
