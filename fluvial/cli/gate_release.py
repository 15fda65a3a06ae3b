"""`fluvial gate keygen`, `sign`, `verify`, `show`: releases, signed where no server runs."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fluvial.cli.option import (
    config_option,
    data_dir_option,
    json_option,
    load_settings,
    print_json,
)
from fluvial.cli.terminal import clean, name_time, print_table
from fluvial.errors import FluvialError

if TYPE_CHECKING:
    from securesystemslib.signer import (
        CryptoSigner,  # pyright: ignore[reportPrivateImportUsage]
    )

    from fluvial.gate.release import Release

file_type = click.Path(path_type=Path, dir_okay=False)
key_option = click.option(
    "--key", "keys", type=file_type, multiple=True, help="Public key that is trusted (PEM)."
)


@click.command()
@click.argument("file", type=file_type)
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase that locks the key.")
def keygen(file: Path, passphrase: bool) -> None:
    """Make a key that signs releases: FILE, private, and FILE.pub for servers."""
    from fluvial.gate.key import generate, load_public

    word: str | None = None
    if passphrase:
        word = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True)
    public = generate(file, passphrase=word)
    click.echo(f"{file} is the private key: keep it off every server")
    click.echo(f"{public} is the public one, id {load_public(public).keyid}")


@click.command()
@click.argument("results", type=file_type)
@click.option("--key", type=file_type, required=True, help="Private key (PEM).")
@click.option("-o", "--output", type=file_type, required=True, help="Where the release goes.")
@click.option("--days", type=float, default=90, show_default=True, help="How long it is valid.")
@click.option("--ledger", type=file_type, help="Attempts. [default: in the data folder]")
@data_dir_option
@config_option
def sign(
    results: Path,
    key: Path,
    output: Path,
    days: float,
    ledger: Path | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Sign the RESULTS of a run as a release. They must be on record as their plan's."""
    from fluvial.gate import release, result, signing
    from fluvial.gate.ledger import Ledger, find_ledger

    found = result.load(results)
    path = ledger or find_ledger(load_settings(config_file, data_dir=data_dir).data_dir)
    Ledger(path).check(found)
    envelope = signing.sign(found, signer=_unlock(key), now=time.time(), days=days)
    signing.save(envelope, output)
    made = release.read_unchecked(envelope)
    _show(made)
    if not made.passed:
        click.echo("Signed, but not every risk passed: it is never valid for production.")
    click.echo(f"{output} is valid until {name_time(made.terms.expires_at)}")


@click.command()
@click.argument("release", type=file_type)
@key_option
def verify(release: Path, keys: tuple[Path, ...]) -> None:
    """Check the signature and the time of RELEASE, and that every risk passed."""
    from fluvial.gate.release import require_pass

    if not keys:
        raise click.UsageError("give the public key that is trusted: --key FILE.pub")
    found = _verify(release, keys)
    require_pass(found)
    click.echo(
        f"valid: signed by {(found.key_id or '')[:12]}, every risk passed, until "
        f"{name_time(found.terms.expires_at)}; it covers"
    )
    for name, sha256 in sorted(found.subjects.items()):
        click.echo(f"  {sha256}  {clean(name)}")


@click.command()
@click.argument("release", type=file_type)
@key_option
@click.option("--html", type=file_type, help="Write a report with the intervals drawn.")
@json_option
def show(release: Path, keys: tuple[Path, ...], html: Path | None, as_json: bool) -> None:
    """Show what RELEASE says. Without --key nobody has checked who wrote it."""
    from fluvial.gate.release import load, read_unchecked, view
    from fluvial.gate.report import save_report

    note = ""
    if keys:
        try:
            found = _verify(release, keys)
        except FluvialError as error:
            found, note = read_unchecked(load(release)), f"NOT VALID: {error.message}"
    else:
        found, note = read_unchecked(load(release)), "The signature was not checked (no --key)."
    if html is not None:
        save_report(found, html, note=note, now=time.time())
    if as_json:
        print_json(view(found) | {"note": note})
        return
    _show(found)
    click.echo(note or f"The signature of {(found.key_id or '')[:12]} is good.")


def _verify(path: Path, keys: tuple[Path, ...]) -> "Release":
    from fluvial.gate.key import load_public
    from fluvial.gate.release import load, verify

    return verify(load(path), keys=[load_public(key) for key in keys], now=time.time())


def _unlock(path: Path) -> "CryptoSigner":
    """Load a private key, asking for its passphrase where it has one."""
    from fluvial.errors import InputError
    from fluvial.gate.key import load_private

    try:
        return load_private(path)
    except InputError as error:
        if error.code != "passphrase_needed":
            raise
    return load_private(path, passphrase=click.prompt("Passphrase", hide_input=True))


def _show(found: "Release") -> None:
    terms = found.terms
    click.echo(
        f"{clean(terms.model)}: plan {terms.plan_sha256[:12]}, attempt {terms.attempt} of "
        f"{clean(terms.lineage)}, tested {name_time(terms.ended_at)}, expires "
        f"{name_time(terms.expires_at)}"
    )
    rows: list[list[str]] = []
    for risk in terms.risks:
        sign = "≤" if risk.direction == "at_most" else "≥"
        rows.append(
            [
                risk.name,
                risk.verdict,
                f"{sign} {100 * risk.bar:.4g} %",
                f"{100 * risk.bound_below:.4g} to {100 * risk.bound_above:.4g} %",
                f"{risk.evidence.failed}/{risk.evidence.clusters}",
                f"{risk.alpha:.4g}",
                risk.reason if risk.verdict != "PASS" else "",
            ]
        )
    headings = ["risk", "verdict", "bar", "bounds", "failed", "alpha", "reason"]
    print_table(headings, rows, right=(2, 3, 4, 5))
    covered = terms.adaptation
    if covered.drift_budget is None:
        click.echo("It covers the base alone: versions that learned are not released.")
        return
    canaries = covered.canary_sha256
    click.echo(
        f"It covers versions that drift at most {covered.drift_budget:g} nats a token from the base"
        + ("; no canary set runs on them" if canaries is None else f", canaries {canaries[:12]}")
    )
