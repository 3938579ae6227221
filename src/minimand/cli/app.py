"""The commands and their options; what they do is imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

import minimand

app = typer.Typer(
    name="minimand",
    help="Losses, divergences and update rules for PyTorch, and studies that say which is better on your data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"minimand {minimand.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


COMPARE = (
    "Train several methods under one budget and say, with intervals, which is better.\n\n"
    "Every method gets the same number of candidates, scored on validation rows; its best is trained again on fresh "
    "seeds, the same for all methods, and scored once on test rows. Nothing is called better when the interval "
    "covers zero.\n\n"
    "[dim]minimand compare\n"
    "minimand compare wine.csv -t quality --try loss=mse,hl_gauss\n"
    "minimand compare iris --try rule=adamw,lion --try loss=gce,focal[/dim]"
)
PARTS = (
    "List what can be plugged in, axis by axis: a line each, and its source.\n\n"
    "[dim]minimand parts ldr\nminimand parts --axis rule[/dim]"
)

PAPERS = (
    "Search the catalogue of 215 papers: what there is to import for a question, and whether its claim held.\n\n"
    "[dim]minimand papers imbalanced data\nminimand papers --room optim --status holds\n"
    "minimand papers show anyloss[/dim]"
)
CLAIMS = "Re-run papers' headline claims at a small honest scale: holds, fails or undecided."

claims_app = typer.Typer(help=CLAIMS, no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(claims_app, name="claims")

As_json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Room = Annotated[str | None, typer.Option(metavar="ROOM", help="losses, optim, ...", show_default="all")]


@app.command(help=COMPARE)
def compare(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A CSV, TSV, Parquet, Arrow or .npz file, or an embedded set ('minimand parts --axis data'). "
            "Without it: which loss survives wrong labels? (digits-noisy)",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", metavar="COL", help="The column to predict.", show_default=False)
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", "-m", metavar="NAME", help="What decides.", show_default="accuracy or r2"),
    ] = None,
    try_: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="AXIS=a,b,c",
            help="What to compare: loss=cross_entropy,ldr:lam=10 or rule=adamw,lion. Again for another axis: a grid.",
            show_default="losses that fit",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What the others are held against.", show_default="the first"),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="BUDGET",
            help="quick, standard or thorough, and numbers: steps=600,candidates=8,batch=64.",
            show_default="standard",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Final runs a method, paired across methods.")] = 10,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="mlp, linear, cnn, or module:factory (which runs your code).")
    ] = "mlp",
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="classification or regression.", show_default="inferred and said"),
    ] = None,
    missing_target: Annotated[
        str, typer.Option(metavar="WHAT", help="Rows without a target: refuse or drop them.")
    ] = "refuse",
    protected: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COL",
            help="A column that predictions should not depend on; repeatable. For penalties and metrics of groups.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[str, typer.Option(metavar="ENGINE", help="auto, batched, process or ray.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Processes of the process and ray engines.", show_default="one a core"),
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Where to train: cpu, cuda, cuda:1 or auto.")] = "cpu",
    compile_: Annotated[
        str, typer.Option("--compile", metavar="WHEN", help="Compile the training step: auto, always or never.")
    ] = "auto",
    holdout: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="How test scores are told: plain, or thresholdout, a budget shared by all studies of these test rows.",
        ),
    ] = "plain",
    tuner: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="How candidates are chosen: quasirandom, random, bayesian (with the extra 'bo') or direct; as many "
            "under each.",
        ),
    ] = "quasirandom",
    seed: Annotated[int, typer.Option(metavar="N", help="Decides the split, the candidates and the seeds.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where trials and report go.", show_default="runs/NAME-TIME"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> None:
    """``minimand compare``; see COMPARE."""
    from minimand.cli.terminal import INTERRUPTED, stop, waiting

    try:
        with waiting("Loading"):
            from minimand.cli.compare import Request, run

        run(
            Request(
                data=data,
                target=target,
                metric=metric,
                try_=tuple(try_ or ()),
                baseline=baseline,
                budget=budget,
                seeds=seeds,
                model=model,
                kind=kind,
                missing_target=missing_target,
                protected=tuple(protected or ()),
                engine=engine,
                workers=workers,
                device=device,
                compile=compile_,
                holdout=holdout,
                tuner=tuner,
                seed=seed,
                out=out,
                resume=resume,
                json=as_json,
            )
        )
    except KeyboardInterrupt:
        raise stop("interrupted", INTERRUPTED) from None


@app.command(help=PARTS)
def parts(
    query: Annotated[
        str | None,
        typer.Argument(
            metavar="QUERY", help="How the name starts; a mistyped one gets the nearest.", show_default=False
        ),
    ] = None,
    axis: Annotated[
        str | None,
        typer.Option(metavar="AXIS", help="loss, rule, schedule, model, metric or data.", show_default="all"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """``minimand parts``; see PARTS."""
    from minimand.cli.terminal import bad_input, waiting

    with bad_input():
        with waiting("Loading"):
            from minimand.cli.parts import list_parts

        list_parts(query, axis, as_json)


@app.command(help=PAPERS)
def papers(
    query: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUERY | show SLUG]", help="What is looked for, in your words.", show_default=False),
    ] = None,
    room: Room = None,
    status: Annotated[
        str | None,
        typer.Option(
            metavar="STATUS", help="holds, fails, undecided, stale, unmeasured, part or planned.", show_default="all"
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(metavar="HOW", help="words, or meaning: sentence embeddings, with the extra 'search'.")
    ] = "words",
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many of a question's answers.")] = 10,
    as_json: As_json = False,
) -> None:
    """``minimand papers``; see PAPERS."""
    from minimand.cli.terminal import bad_input, waiting

    words = query or []
    with bad_input():
        with waiting("Loading"):
            from minimand.cli.papers import list_papers, show_paper

        if words[:1] == ["show"] and len(words) == 2:
            show_paper(words[1], as_json)
        else:
            whole = not words or as_json
            list_papers(" ".join(words), room, status, cast(Any, by), None if whole else limit, as_json)


@claims_app.command("list")
def claims_list(
    room: Room = None,
    verdict: Annotated[
        str | None,
        typer.Option(metavar="VERDICT", help="holds, fails, undecided, stale or unmeasured.", show_default="all"),
    ] = None,
    as_json: As_json = False,
) -> None:
    """List the claims there are, and what was measured."""
    from minimand.cli.terminal import bad_input, waiting

    with bad_input():
        with waiting("Loading"):
            from minimand.cli.claims import list_claims

        list_claims(room, verdict, as_json)


@claims_app.command("run")
def claims_run(
    slugs: Annotated[
        list[str] | None, typer.Argument(metavar="SLUG...", help="Which; see 'minimand claims list'.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All whose evidence is missing or stale.")] = False,
    again: Annotated[bool, typer.Option("--again", help="With --all, also those whose evidence is fresh.")] = False,
    scale: Annotated[
        str, typer.Option(metavar="SCALE", help="smoke (seconds), small (what is recorded) or full.")
    ] = "small",
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="What all draws follow from.", show_default="the claim's own")
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="How many at a time.")] = 1,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where evidence is recorded.", show_default="evidence/")
    ] = None,
    as_json: As_json = False,
) -> None:
    """Run claims and record the evidence."""
    from minimand.cli.terminal import INTERRUPTED, bad_input, stop, waiting

    try:
        with bad_input():
            with waiting("Loading"):
                from minimand.cli.claims import run_claims

            run_claims(slugs or (), every, cast(Any, scale), seed, jobs, again, out, as_json)
    except KeyboardInterrupt:
        raise stop("interrupted; what had ended is recorded", INTERRUPTED) from None


@claims_app.command("check")
def claims_check(as_json: As_json = False) -> None:
    """Say which evidence is stale or missing; exit code 1 where any is."""
    from minimand.cli.terminal import bad_input, waiting

    with bad_input():
        with waiting("Loading"):
            from minimand.cli.claims import check_claims

        check_claims(as_json)
