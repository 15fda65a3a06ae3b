"""Copies of versions that everyone on this server may adopt: a row, and a file of its own each.

data_dir/published/<id>.safetensors
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import final

from sqlalchemy import delete, insert, select

from fluvial.errors import ConflictError, ForbiddenError, InputError, NotFoundError
from fluvial.store import table
from fluvial.store.clock import Clock
from fluvial.store.database import Database
from fluvial.store.fault import translate_os
from fluvial.store.file import discard_file, make_id, write_atomically
from fluvial.types import Publication, Session, Version

PUBLISHED_FOLDER = "published"

_COLUMNS = table.select_columns(table.publication, Publication)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_FILE = re.compile(r"pub_[0-9a-f]{24}\.safetensors|\..*\.tmp", re.ASCII)


@final
class PublicationTable:
    """The publications in the database, and their files in `folder`."""

    def __init__(self, database: Database, *, clock: Clock, folder: Path) -> None:
        self._database = database
        self._clock = clock
        self._folder = folder

    def create(self, session: Session, version: Version, *, name: str, data: bytes) -> Publication:
        """Publish a copy of a version, `data` its file. Nothing in it names what was read.

        Raises InputError for a name that is none, ConflictError `name_taken`.
        """
        publication = Publication(
            id=make_id("pub"),
            name=_check_name(name),
            owner=session.owner,
            model=session.model,
            checkpoint=session.checkpoint,
            version=replace(version, session="", reading=None, text_sha256=""),
            created_at=self._clock.now(),
        )
        path = self._path(publication)
        write_atomically(path, data)
        try:
            self._insert(publication)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return publication

    def find(self, name: str) -> Publication:
        """Return what is published under a name, whoever did it. Raises NotFoundError."""
        query = select(*_COLUMNS).where(table.publication.c.name == name)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none() if _NAME.fullmatch(name) else None
        if row is None:
            raise NotFoundError(f"nothing is published as {name[:64]!r}", param="published")
        return table.make_record(row, Publication)

    def list_all(self) -> list[Publication]:
        """List all publications by name."""
        query = select(*_COLUMNS).order_by(table.publication.c.name)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [table.make_record(row, Publication) for row in rows]

    def read(self, publication: Publication) -> bytes:
        """Return the bytes of the copy. Raises NotFoundError when it was taken back meanwhile."""
        with translate_os(f"reading {publication.name}"):
            try:
                return self._path(publication).read_bytes()
            except FileNotFoundError:
                raise NotFoundError(f"{publication.name!r} is no longer published") from None

    def delete(self, name: str, *, owner: str) -> None:
        """Take a copy back, row and file. Raises ForbiddenError when it is another owner's."""
        publication = self.find(name)
        if publication.owner != owner:
            raise ForbiddenError(f"{name!r} was published by someone else", code="not_yours")
        with self._database.write(frees=True) as connection:
            this = delete(table.publication).where(table.publication.c.id == publication.id)
            connection.execute(this)
        discard_file(self._path(publication))

    def sweep(self) -> None:
        """Remove the files that a dead process left without a row."""
        keep = {self._path(publication) for publication in self.list_all()}
        for file in self._folder.glob("*"):
            if file not in keep and _FILE.fullmatch(file.name):
                discard_file(file)

    def _insert(self, publication: Publication) -> None:
        c = table.publication.c
        same = select(c.id).where(c.name == publication.name)
        with self._database.write() as connection:
            if connection.execute(same).first() is not None:
                raise ConflictError(
                    f"{publication.name!r} is published already; what is published never changes, "
                    "so choose another name",
                    code="name_taken",
                    param="name",
                )
            connection.execute(insert(table.publication).values(vars(publication)))

    def _path(self, publication: Publication) -> Path:
        return self._folder / f"{publication.id}.safetensors"


def _check_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise InputError(
            "a published name has 1 to 64 of a-z 0-9 . _ - and begins with a letter or a digit",
            param="name",
        )
    return name
