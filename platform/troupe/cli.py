"""The command `troupe`. Heavy imports wait until a command needs them, so that help is instant."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from troupe import __version__
from troupe.errors import TroupeError
from troupe.jobs import remote_cli

if TYPE_CHECKING:
    from troupe.jobs.session import Scrapes

RUNS = remote_cli.RUNS


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 2 for a user's mistake, 1 for a fault.

    Commands about a run give 3 where they did what they should, and it is the run that failed.
    """
    # Read when numpy is imported; more threads wait for one another where cores are busy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if hasattr(options, "overrides") and not any(text.startswith("-") for text in rest):
        options.overrides += rest  # argparse takes no more of them once there was an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except TroupeError as error:
        for line in str(error).splitlines():
            print(f"troupe: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk, a folder that cannot be read
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"troupe: {what}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="troupe",
        description="Train card games, control and language models by reinforcement learning.",
    )
    parser.add_argument("--version", action="version", version=f"troupe {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = commands.add_parser("train", help="start a run from a job file")
    train.add_argument("job", type=Path, help="the job file, such as examples/doudizhu.yaml")
    _overrides(train)
    train.add_argument(
        "--dry-run", action="store_true", help="print the resolved job and who talks to whom"
    )
    _scrapes(train)
    train.add_argument(
        "--name", help="of the run; one of that name and the same job goes on (default: JOB-N)"
    )
    _ray(train)
    _runs(train)
    train.set_defaults(command=_train)

    resume = commands.add_parser("resume", help="go on with a run that ended or was killed")
    _run(resume)
    _overrides(resume)
    _checkpoint(resume)
    _scrapes(resume)
    _ray(resume)
    remote_cli.to(resume)
    resume.add_argument("--json", action="store_true", help="with --to: print JSON")
    resume.set_defaults(command=_resume)

    judge = commands.add_parser(
        "eval", help="judge a run: its returns, its play against others, or its rewards"
    )
    _run(judge)
    judge.add_argument(
        "--against",
        metavar="AGENT",
        action="append",
        help="of a game: random, rule, rlcard-rule or another run; may be repeated (default: as "
        "the job says)",
    )
    judge.add_argument(
        "--deals", type=int, help="of a game: deals, each played in both seats (default: 1000)"
    )
    judge.add_argument("--deal-file", type=Path, help="play the deals of this file")
    judge.add_argument("--episodes", type=int, help="of an environment: episodes (default: 100)")
    judge.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="of a language model: what it is asked (default: as the job says)",
    )
    judge.add_argument("--limit", type=int, metavar="N", help="of the prompts, the first so many")
    judge.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="of a language model: 0 takes the likeliest token (default: as the job says)",
    )
    judge.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the deals, episodes or completions (default: 0)",
    )
    judge.add_argument("--json", action="store_true", help="print the result as JSON")
    _checkpoint(judge)
    judge.set_defaults(command=_eval)

    play = commands.add_parser("play", help="sit down at a table with a run's agents")
    _run(play)
    play.add_argument("--seat", default="", help="where to sit (default: the first seat)")
    play.add_argument("--seed", type=int, help="seed of the deals (default: a new one each time)")
    _checkpoint(play)
    play.set_defaults(command=_play)

    chat = commands.add_parser("chat", help="talk to a run's language model")
    _run(chat)
    chat.add_argument(
        "--temperature", type=float, default=0.0, help="0 says what is likeliest (default: 0)"
    )
    chat.add_argument(
        "--max-tokens", type=int, default=256, metavar="N", help="of an answer (default: 256)"
    )
    chat.add_argument(
        "--plain", action="store_true", help="go on with each line, without the chat template"
    )
    _checkpoint(chat)
    chat.set_defaults(command=_chat)

    export = commands.add_parser(
        "export", help="write a run's language model as a folder that transformers opens"
    )
    _run(export)
    export.add_argument(
        "--to", type=Path, metavar="DIR", help="where to (default: model/ in the run's folder)"
    )
    _checkpoint(export)
    export.set_defaults(command=_export)

    league = commands.add_parser("league", help="print how a run fares against its pool, with Elo")
    _run(league)
    league.add_argument("--json", action="store_true", help="print all of it as JSON")
    _checkpoint(league)
    league.set_defaults(command=_league)

    samples = commands.add_parser(
        "samples", help="show what a language model was asked, what it said, and its rewards"
    )
    _run(samples)
    samples.add_argument(
        "--step", type=int, metavar="N", help="as its weights were after N updates (default: now)"
    )
    samples.add_argument("--best", type=int, default=3, metavar="K", help="how many (default: 3)")
    samples.add_argument("--worst", type=int, default=3, metavar="K", help="how many (default: 3)")
    samples.add_argument("--json", action="store_true", help="print them whole, as JSON")
    samples.set_defaults(command=_samples)

    checking = commands.add_parser(
        "check-env", help="say in one line whether an environment or a game is sound"
    )
    checking.add_argument(
        "name",
        metavar="NAME",
        help="a Gymnasium id, package.module:Class of your own, or a game such as openspiel",
    )
    checking.add_argument(
        "--option",
        metavar="key=value",
        action="append",
        default=[],
        help="passed to the environment, or a rule of the game; may be repeated",
    )
    checking.set_defaults(command=_check_env)

    prompts = commands.add_parser(
        "prompts", help="print how a run stands with its prompts: ready, leased, done, dead"
    )
    _run(prompts)
    prompts.add_argument("--dead", action="store_true", help="only those put aside, all of them")
    prompts.add_argument("--json", action="store_true", help="print all of it as JSON")
    prompts.set_defaults(command=_prompts)

    weights = commands.add_parser("weights", help="serve weights by themselves, for other machines")
    _weights_options(weights)
    weights.set_defaults(command=_weights)

    listing = commands.add_parser("list", help="list the runs and how they stand")
    listing.add_argument("--json", action="store_true", help="print the list as JSON")
    remote_cli.to(listing)
    _runs(listing)
    listing.set_defaults(command=_list)
    remote_cli.add(commands)
    return parser


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the run's folder, or its name below runs/")
    _runs(parser)


def _runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs", type=Path, default=RUNS, metavar="DIR", help="where runs are kept (runs/)"
    )


def _ray(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on this Ray cluster, which this machine is part of; `auto` is its own",
    )


def _overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="put over the job file, such as actors.count=4",
    )


def _scrapes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="let Prometheus read the run's metrics there; 0 takes a free port",
    )
    parser.add_argument(
        "--metrics-host",
        default="127.0.0.1",
        metavar="HOST",
        help="where it listens; off loopback only with TROUPE_METRICS_TOKEN (default: 127.0.0.1)",
    )


def _checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", metavar="NAME", help="a checkpoint other than the newest")


def _weights_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default="127.0.0.1:50051",
        help="where to; port 0 takes a free one (default: 127.0.0.1:50051)",
    )
    parser.add_argument(
        "--health", metavar="HOST:PORT", help="where to tell probes, without TLS, how it is"
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="for the newest weights (default: in /dev/shm)"
    )
    parser.add_argument("--pins", type=Path, metavar="DIR", help="for weights that are to stay")
    parser.add_argument(
        "--keep",
        type=int,
        default=2,
        metavar="N",
        help="newest versions of each policy that stay: two and a job's lag (default: 2)",
    )
    parser.add_argument(
        "--plaintext", action="store_true", help="let others than this machine call without TLS"
    )


def _train(options: argparse.Namespace) -> int:
    if options.dry_run:
        from troupe.jobs import load

        job = load.read(options.job, options.overrides, here=options.ray is None)
        print(load.show(job))
        return 0
    from troupe.jobs import session

    return session.train(
        options.job,
        options.overrides,
        options.runs,
        name=options.name,
        address=options.ray,
        scrapes=_where(options),
    )


def _resume(options: argparse.Namespace) -> int:
    if options.to is not None:
        from troupe.jobs import remote

        return remote.resume(options)
    from troupe.jobs import session

    return session.resume(
        options.run,
        options.runs,
        options.overrides,
        options.checkpoint,
        address=options.ray,
        scrapes=_where(options),
    )


def _where(options: argparse.Namespace) -> "Scrapes | None":
    from troupe.jobs.session import Scrapes

    port: int | None = options.metrics_port
    return None if port is None else Scrapes(options.metrics_host, port)


def _eval(options: argparse.Namespace) -> int:
    from troupe.jobs import session

    return session.evaluate(options)


def _league(options: argparse.Namespace) -> int:
    from troupe.league import standings
    from troupe.runs import RunFolder

    run = RunFolder.find(options.run, options.runs)
    return standings.show(run, options.checkpoint, as_json=options.json)


def _samples(options: argparse.Namespace) -> int:
    from troupe import gallery
    from troupe.runs import RunFolder

    run = RunFolder.find(options.run, options.runs)
    return gallery.show(run, options.step, options.best, options.worst, as_json=options.json)


def _prompts(options: argparse.Namespace) -> int:
    from troupe.prompts.show import show
    from troupe.runs import RunFolder

    run = RunFolder.find(options.run, options.runs)
    return show(run, dead=options.dead, as_json=options.json)


def _play(options: argparse.Namespace) -> int:
    from troupe.jobs import session

    return session.play(options)


def _chat(options: argparse.Namespace) -> int:
    from troupe.jobs import session

    return session.chat(options)


def _export(options: argparse.Namespace) -> int:
    from troupe.language.export import export
    from troupe.runs import RunFolder

    run = RunFolder.find(options.run, options.runs)
    print(export(run, options.checkpoint, options.to))
    return 0


def _check_env(options: argparse.Namespace) -> int:
    from troupe.jobs import session

    return session.check_env(options.name, options.option)


def _weights(options: argparse.Namespace) -> int:
    from troupe.jobs import weight_server

    return weight_server.serve(options)


def _list(options: argparse.Namespace) -> int:
    if options.to is not None:
        from troupe.jobs import remote

        return remote.list_runs(options)
    from troupe import runs

    return runs.show(options.runs, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
