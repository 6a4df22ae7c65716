"""The command line: `run` a recipe, `show` an artifact, or make a single artifact with one of the stage verbs.

Exit codes: 0 done, 1 a check failed, 2 bad input (one line says what to change), 3 the surroundings failed, 130 stopped
by Ctrl-C.
"""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from codeflow import __version__
from codeflow.core.errors import InfrastructureError, Preempted, UserError
from codeflow.core.progress import say, visible
from codeflow.execute.chain import resolve
from codeflow.recipes.log_commands import inspect_logs
from codeflow.recipes.scaling_commands import app as scaling_app
from codeflow.recipes.solve_commands import solve
from codeflow.recipes.verb_commands import Overrides, Where, add_verbs
from codeflow.recipes.verbs import VERBS

app = typer.Typer(
    name="codeflow",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="From git repositories to a trained, evaluated code language model.\n\n"
    "Start with `codeflow run tiny`. Every stage leaves an artifact, a folder that `codeflow show` explains; "
    "finished work is reused, interrupted work goes on where it stopped.",
)
app.add_typer(scaling_app, name="scaling")
app.command("inspect-logs")(inspect_logs)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's name: `tiny`, or `smoke` for a quick look.")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run's folder; `runs/RECIPE` if not given.")
    ] = None,
    repos: Annotated[
        list[str] | None, typer.Option(help="A git repository (path or url) to add; may be given several times.")
    ] = None,
    benchmarks: Annotated[
        Path | None, typer.Option(help="Folder with benchmark files; CODEFLOW_BENCHMARKS if not given.")
    ] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Print what would run and why, then stop.")] = False,
    remake: Annotated[list[str] | None, typer.Option(help="A stage to make again; may be given several times.")] = None,
    until: Annotated[str | None, typer.Option(help="The last stage to run.")] = None,
    on: Where = "local",
) -> None:
    """Run a recipe: make every artifact that is missing, reuse the rest, end with a report.

    Examples:

        codeflow run tiny

        codeflow run tiny --repos ~/src/project --repos https://example.org/other.git

        codeflow run tiny --plan train.general.steps=200

        codeflow run smoke --output /tmp/look --remake report

        codeflow run tiny --on ray
    """
    from codeflow.recipes import runner

    wanted = runner.Wanted(tuple(overrides or ()), tuple(repos or ()), benchmarks, tuple(remake or ()), until, on)
    runner.run_recipe(recipe, output, wanted, only_plan)


@app.command()
def show(
    artifact: Annotated[Path, typer.Argument(help="An artifact's folder, e.g. `runs/tiny/pack`.")],
    records: Annotated[int, typer.Option("--records", "-n", help="How many records to print.", min=0)] = 3,
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file and compare with the manifest.")] = False,
    row: Annotated[int, typer.Option("--row", help="Which packed row to decode.", min=0)] = 0,
) -> None:
    """Explain an artifact: its lineage, counts and first records; for tokens a row decoded with its loss mask.

    Examples:

        codeflow show runs/tiny/clean -n 5

        codeflow show runs/tiny/pack --row 7

        codeflow show runs/tiny/train_code --verify
    """
    from codeflow.report.show import show_artifact

    show_artifact(artifact, records, row, verify)


@app.command()
def inspect(
    artifact: Annotated[Path, typer.Argument(help="The folder of an artifact of documents, e.g. `runs/tiny/clean`.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; `ARTIFACT.html` beside the artifact if not given.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="FIELD=VALUE", help="samples, characters, clusters, hits or seed."),
    ] = None,
) -> None:
    """Make one HTML page to look at an artifact's documents: kept beside dropped, near-duplicates, benchmark text.

    Examples:

        codeflow inspect runs/tiny/clean

        codeflow inspect runs/tiny/dedup --output near_duplicates.html -s clusters=40

        codeflow inspect runs/tiny/decontaminate -s samples=20 -s characters=5000 -s seed=7

    The page needs nothing else and loads nothing; what documents hold is shown as text and never run. Settings:
    samples (6, for each reason and language), characters (2000, of a text), clusters (12), hits (6, for each method and
    benchmark), seed (0).
    """
    from codeflow.core.config import apply_overrides
    from codeflow.report.inspection import inspect_artifact
    from codeflow.report.specimens import InspectConfig

    path = inspect_artifact(artifact, output, apply_overrides(InspectConfig(), settings or []))
    say(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint artifact, or a published directory.")],
    prompt: Annotated[str | None, typer.Option(help="Text to continue.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file whose text to continue.")] = None,
    fim: Annotated[
        tuple[str, str] | None, typer.Option(help="Prefix and suffix of a hole to fill.", metavar="PREFIX SUFFIX")
    ] = None,
    chat: Annotated[str | None, typer.Option(help="A message to answer.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text or special token to stop at; may be given several times.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", help="How many continuations.", min=1)] = 1,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0 is greedy.", min=0)] = 0.0,
    seed: Annotated[int, typer.Option(help="Sample i draws from (seed, i).", min=0)] = 0,
    max_new_tokens: Annotated[int, typer.Option("--tokens", help="At most this many new tokens.", min=1)] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per sample, with ids and logprobs.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="FIELD=VALUE", help="top_k, top_p, min_p, thinking or system."),
    ] = None,
) -> None:
    """Continue a prompt, fill a hole, or answer a message with any checkpoint.

    Examples:

        codeflow generate runs/tiny/train_anneal --prompt "def add(a, b):"

        codeflow generate runs/tiny/train_anneal --file main.py --stop "\\n\\n" --tokens 200

        codeflow generate runs/tiny/loop_stage2 --fim "def add(a, b):\\n    return " "\\n"

        codeflow generate runs/tiny/rl_instruct --chat "Write f(xs) ..." -t 0.8 -n 4 --seed 7

        codeflow generate runs/tiny/rl_instruct --chat "Write f(xs) ..." -t 1 -s top_p=0.9 --json

    Text streams as it is made; control characters are spelt out on a terminal. `--json` prints nothing else.
    """
    from dataclasses import asdict

    from codeflow.core.config import validate
    from codeflow.core.errors import suggest
    from codeflow.recipes.generate import GenerateRequest, generate_text

    fields: dict[str, Any] = {"prompt": prompt, "file": file, "fim": fim, "chat": chat, "stop": stop or []}
    fields |= {"samples": samples, "temperature": temperature, "seed": seed, "max_new_tokens": max_new_tokens}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals or name not in GenerateRequest.model_fields:
            raise UserError(f"--set {setting}: no setting '{name}'{suggest(name, GenerateRequest.model_fields)}")
        fields[name] = value.split(",") if name == "stop" else value
    request = validate(GenerateRequest, fields)
    safe = visible if sys.stdout.isatty() else str
    write = None if as_json else lambda text: print(safe(text), end="", flush=True)
    for sample in generate_text(checkpoint, request, write):
        if as_json:
            print(json.dumps(asdict(sample)))


@app.command()
def serve(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint artifact, or a published directory.")],
    host: Annotated[str, typer.Option(help="Address to listen on; there is no access control.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free one.", min=0, max=65535)] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model; the folder's name if not given.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="FIELD=VALUE", help="E.g. max_rows=32, cache_tokens=65536."),
    ] = None,
) -> None:
    """Serve a checkpoint to OpenAI clients: completions, chat, streams. Needs `pip install codeflow[serve]`.

    Examples:

        codeflow serve runs/tiny/rl_instruct

        codeflow serve published/model --port 9000 --name mine -s max_rows=32

        curl localhost:8000/v1/completions -H "content-type: application/json" \\
        -d '{"model": "rl_instruct", "prompt": "def add(a, b):"}'

    Settings: max_rows (16), max_waiting (256), cache_tokens, max_body_bytes, chat_tokens (1024), stop_seconds (30).
    SIGTERM and Ctrl-C let the requests at work end.
    """
    from codeflow.recipes.generate import serve_checkpoint

    serve_checkpoint(checkpoint, host, port, name, settings or [])


@app.command()
def plan(
    name: Annotated[str, typer.Argument(help="7b, 14b, 40b, loop_40b, a recipe, or a model directory.")],
    overrides: Overrides = None,
    gpus: Annotated[int | None, typer.Option(help="Devices; the product of the axes if not given.")] = None,
    parallel: Annotated[
        str | None,
        typer.Option(help="Axes: data, fsdp, cp, tp, as in fsdp=8,tp=8; the fastest that fits if not given."),
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of a row.")] = None,
    hardware: Annotated[str | None, typer.Option(help="h100, h200, a100 or cpu (one core).")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="FIELD=VALUE", help="E.g. tokens=2e12, mfu=0.4, matrices=muon."),
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Build, shard and step the model as one rank, on tensors without data.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a training run needs: memory by part, operations, traffic, time and MFU. Nothing is started.

    Examples:

        codeflow plan loop_40b --gpus 64 --context 131072 --parallel fsdp=8,tp=8

        codeflow plan 14b --parallel fsdp=64 --hardware h200 -s micro_rows=2 -s step_tokens=4194304

        codeflow plan loop_40b --gpus 512 --context 131072 --simulate

        codeflow plan tiny train.general.batch_rows=16

    Settings: micro_rows (1), step_tokens, tokens (1e12), precision (bf16), matrices (adamw), mfu,
    checkpointing (full; none, selective), context_exchange (ring; all_to_all).
    """
    from codeflow.core.config import apply_overrides
    from codeflow.recipes.planning import PlanRequest, print_plans

    given = {"gpus": gpus, "parallel": parallel, "context_tokens": context, "hardware": hardware}
    request = apply_overrides(PlanRequest(simulate=simulate), settings or [])
    kept = {key: value for key, value in given.items() if value is not None}
    print_plans(name, request.model_copy(update=kept), overrides or [], as_json)


@app.command()
def reweight(
    phase: Annotated[Path, typer.Argument(help="The folder of a `train` stage that is training.")],
    weights: Annotated[list[str], typer.Argument(metavar="SET=WEIGHT", help="The sets' weights from now on.")],
) -> None:
    """Change the mixture of a phase while it trains: it takes the weights at its next step and writes them down.

    Examples:

        codeflow reweight runs/tiny/train_code code=0.6 fim=0.3 general=0.1

    The phase's `plan.json` holds every change as (step, weights); a phase that is killed and goes on replays them.
    """
    from codeflow.train.row_plan import parse_weights, request_change

    request_change(phase, parse_weights(weights))
    say(f"asked {phase} for {', '.join(weights)}; its plan.json will say from which step on")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A Hugging Face directory of a dense or looped model.")],
    target: Annotated[Path, typer.Argument(help="The directory to write.")],
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    dense_type: Annotated[str, typer.Option(help="How a dense model is named: llama or iquestcoder.")] = "llama",
    shard_gb: Annotated[float, typer.Option(help="Size of a file in GB; so much memory is needed.", min=0.001)] = 5.0,
) -> None:
    """Rewrite a model directory: other precision, other shards, gates in the released layout. Holds one shard.

    Example:

        codeflow convert ~/models/loop-coder ~/models/loop-coder-bf16 --dtype bfloat16
    """
    from codeflow.core.config import validate
    from codeflow.model.huggingface import ExportSettings
    from codeflow.model.huggingface import convert as convert_folder

    fields = {"dtype": dtype, "dense_type": dense_type, "shard_bytes": round(shard_gb * 1e9)}
    shape = convert_folder(source, target, validate(ExportSettings, fields))
    say(f"wrote {target}: {shape.num_hidden_layers} layers, loop_num={shape.loop_num}, {dtype}")


@app.command()
def doctor(
    backend: Annotated[
        str, typer.Option(help="The sandbox back end to examine; the one chosen here if not given.")
    ] = "",
) -> None:
    """Attack the sandbox of this machine with hostile programs and cheating answers, and print what became of each.

    Ends with exit code 0 when all were contained, 1 when one was not, 3 when no sandbox works here.

    Examples:

        codeflow doctor

        codeflow doctor --backend bubblewrap
    """
    from codeflow.solve.doctor import examine

    if not examine(backend, print):
        raise typer.Exit(1)


@app.command("mine-tasks")
def mine_tasks(
    repository: Annotated[str, typer.Argument(help="A git repository with Python sources and tests: path or URL.")],
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The artifact's folder.")] = Path("runs/mined_tasks"),
    fields: Annotated[bool, typer.Option("--fields", help="Print all fields with defaults and stop.")] = False,
) -> None:
    """Turn commits of a Python repository into tasks with hidden Fail-to-Pass and Pass-to-Pass tests.

    Every task is proved: its tests run twice before and twice after the commit's change, in the sandbox, without
    network. The packages that they need come as wheels from the index that pip is configured for.

    Examples:

        codeflow mine-tasks ~/src/click -o runs/click_tasks max_tasks=20

        codeflow mine-tasks https://example.org/project.git -o runs/tasks max_commits=3000 'requirements=["hypothesis"]'

    The same command goes on where an earlier call stopped; docs/mining.md says what makes a task.
    """
    if fields:
        print(resolve("codeflow.solve.repository.mine:MineConfig")().model_dump_json(indent=2))
        return
    from codeflow.recipes.mining import mine_tasks as mine

    mine(repository, output, overrides or [])


app.command("solve")(solve)
add_verbs(app)


@app.command(rich_help_panel="Stages, one artifact each")
def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            help="With --on the checkpoint or a server's url; without it the artifact's folder.", metavar="TARGET"
        ),
    ] = "",
    overrides: Overrides = None,
    on: Annotated[
        list[str] | None, typer.Option("--on", help="Benchmarks by name, such as humaneval,cruxeval.", metavar="NAMES")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="With --on: the scores' folder; MODEL_benchmarks if not given."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="With --on: another run's folder, to print the paired differences to.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=DIR", help="Without --on: an input artifact."),
    ] = None,
    fields: Annotated[bool, typer.Option("--fields", help="Print all fields with defaults and stop.")] = False,
) -> None:
    """Score a checkpoint or a served model on public benchmarks (--on), or make a run's scores artifact, as recipes do.

    Examples:

        codeflow evaluate runs/tiny/train_anneal --on humaneval -o runs/humaneval style=text limit=20

        codeflow evaluate hf/my-model --on mbpp,cruxeval_output,bfcl samples=5 temperature=0.8 --against runs/before

        codeflow evaluate http://127.0.0.1:8000/v1 --on humaneval -o runs/served server.model=mine server.parallel=32

        codeflow evaluate runs/mine/evaluate -i documents=runs/mine/split -i tokenizer=runs/mine/tokenizer -i last=DIR

    The same command goes on where an earlier call stopped; docs/evaluation.md lists benchmarks, files and settings.
    """
    if fields:
        kind = resolve("codeflow.eval.benchmark_run:BenchmarkRunConfig" if on else VERBS["evaluate"].config)
        print((kind(on=tuple(on)) if on else kind()).model_dump_json(indent=2))
        return
    if not target:
        raise UserError("evaluate what? give a checkpoint and --on NAMES, or the folder of a scores artifact")
    if on:
        from codeflow.recipes.evaluation import evaluate_on

        evaluate_on(target, on, output, overrides or [], against)
        return
    if output or against:
        raise UserError("--output and --against go with --on; name benchmarks, or leave them out")
    from codeflow.recipes import runner

    runner.run_verb(VERBS["evaluate"], Path(target), inputs or [], overrides or [])


def _user_words(error: OSError) -> str | None:
    """Return the one line for system errors that a user can mend; None for the rest."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left for {error.filename or 'the output'}; free some and run the same command again"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and error.filename:
        return f"no permission for {error.filename}; choose an output folder you can write to"
    return None


def main() -> None:
    """Entry point of the `codeflow` command."""
    # Threads that wait for each other spin before they sleep. GNU OpenMP's default spins so long that a second process
    # on the same cores makes both ten times slower; not at all costs a third of the speed; this is between. It is read
    # once, when torch is loaded, which no module does at import time before this line.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app(standalone_mode=False)
        code: Any = 0
    except typer.Exit as leaving:
        code = leaving.exit_code
    except UserError as error:
        say(f"error: {error}")
        code = 2
    except InfrastructureError as error:
        say(f"failed: {error}")
        code = 3
    except Preempted as ending:
        say(f"stopped: {ending}")
        code = 143
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        code = 130
    except Exception as error:
        code = _usage_or_raise(error)
    sys.stdout.flush()
    # Threads of numerical libraries can take seconds to wind down; nothing is left to save.
    os._exit(code if isinstance(code, int) else 0)


def _usage_or_raise(error: Exception) -> int:
    """Turn click's usage errors and mendable system errors into one line; raise anything else, it is a bug."""
    format_message = getattr(error, "format_message", None)
    if format_message is not None:  # click.ClickException and its kin
        say(f"error: {' '.join(format_message().split()).rstrip('.')}; see `codeflow --help`")
        return 2
    if type(error).__name__ == "Abort":
        return 130
    if isinstance(error, OSError) and (words := _user_words(error)):
        say(f"error: {words}")
        return 2
    raise error
