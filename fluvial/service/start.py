"""Build a real service: the store, the model running, the learner beside it, the reader between."""

import contextlib
import logging
import threading
import time
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

from fluvial import __version__
from fluvial.adapt.history import LEAST_KEPT, History
from fluvial.adapt.keeping import Limits
from fluvial.adapt.process import LearnerProcess
from fluvial.adapt.reader import Reader
from fluvial.adapt.rule import Rule
from fluvial.config import Settings
from fluvial.engine.decoder import Decoder
from fluvial.engine.engine import Engine
from fluvial.engine.fallback import FallbackDecoder
from fluvial.engine.grammar import GrammarCompiler
from fluvial.engine.spill import Spill
from fluvial.engine.thread import choose_for, count_usable
from fluvial.errors import InputError
from fluvial.gate.canary_set import CanarySet
from fluvial.guard.policy import ModelProvider
from fluvial.model import basis
from fluvial.model.adapter import Adapter
from fluvial.model.architecture.declaration import Declaration
from fluvial.model.built import ensure_graph
from fluvial.model.graph import GRAPH_VERSION, Progress
from fluvial.model.layout import PAGE_TOKENS, CacheBits, lay_out
from fluvial.model.opening import (
    AnyCheckpoint,
    choose_first_token,
    open_model,
    open_template,
    open_tokenizer,
)
from fluvial.model.outline import OutlinedCheckpoint
from fluvial.model.registry import Registry
from fluvial.service.canary import Canaries, open_canaries
from fluvial.service.canary_asking import Asker
from fluvial.service.guard_model import EngineWriter, fit_settings
from fluvial.service.guarding import Guarding, open_guarding
from fluvial.service.hub import Hub
from fluvial.service.loaded import digest_loaded
from fluvial.service.record import Record
from fluvial.service.release import (
    Clearance,
    Clock,
    clear,
    read_release,
    record_accepted,
    recording,
    say_adaptation,
)
from fluvial.service.service import Service
from fluvial.store import Store
from fluvial.store.audit import AuditLog
from fluvial.types import ModelInfo

GRAPHS_FOLDER = "graphs"
LEAST_CACHE_TOKENS = 256
"""As many as the shortest context that can be set."""

log = logging.getLogger(__name__)


def open_service(settings: Settings, *, on_build: Progress | None = None) -> Service:
    """Open everything that a server needs, as the settings say; close the service at the end.

    The learner process only begins to start here, and takes seconds to be ready.
    Raises NotFoundError when the model is not installed and can't be, ModelError when it is
    damaged, ConflictError while another process serves the data folder, and StorageError when
    the disk refuses.
    """
    with contextlib.ExitStack() as undo:
        # The store first: its lock tells at once when another server is at work here.
        store = Store.open(settings.data_dir, learning=settings.learning)
        undo.callback(store.close)
        audit = AuditLog.open(
            settings.data_dir, limit_bytes=settings.audit_bytes, keep_texts=settings.audit_texts
        )
        clock = Clock()
        with recording(audit, settings):
            held = read_release(settings, now=clock.now())
        registry = Registry(settings.data_dir)
        guarding = open_guarding(
            settings, audit=audit, open_model=partial(open_guard_model, settings=settings)
        )
        undo.callback(guarding.close)
        info = registry.ensure(settings.model, offline=settings.offline)
        checkpoint = open_model(Path(info.path), sha256=info.sha256)
        learner = _create_learner(settings, info=info, checkpoint=checkpoint)
        undo.callback(learner.close)
        engine = open_engine(checkpoint, name=info.name, settings=settings, on_build=on_build)
        undo.callback(engine.close)
        canaries = open_canaries(settings, now=time.time())
        canary_sha256 = None if canaries is None else canaries.sha256
        subjects = digest_loaded(
            settings,
            checkpoint=checkpoint,
            template=engine.template,
            guard=guarding.sha256,
            canary_sha256=canary_sha256,
        )
        with recording(audit, settings):
            clearance = clear(
                held,
                subjects=subjects,
                adaptation=say_adaptation(settings, canary_sha256=canary_sha256),
                clock=clock,
            )
        record_accepted(audit, settings, clearance)
        service = _join(
            settings,
            info=info,
            checkpoint=checkpoint,
            engine=engine,
            store=store,
            audit=audit,
            guarding=guarding,
            clearance=clearance,
            canaries=canaries,
            learner=learner,
            registry=registry,
        )
        learner.start()
        undo.pop_all()
    return service


def open_guard_model(provider: ModelProvider, *, settings: Settings) -> EngineWriter:
    """Run the guard model that a policy names. Raises as `open_service` does."""
    settings = fit_settings(settings, provider)
    info = Registry(settings.data_dir).ensure(provider.model, offline=settings.offline)
    checkpoint = open_model(Path(info.path), sha256=info.sha256)
    engine = open_engine(checkpoint, name=info.name, settings=settings)
    return EngineWriter(engine, sha256=info.sha256)


def _create_learner(
    settings: Settings, *, info: ModelInfo, checkpoint: AnyCheckpoint
) -> LearnerProcess:
    packed, positions = settings.weights == "packed", _count_positions(settings, checkpoint)
    return LearnerProcess(
        Path(info.path),
        sha256=info.sha256,
        rule=Rule.from_settings(settings, checkpoint.declaration).fit(positions),
        threads=settings.learner_threads,
        graph_dir=settings.data_dir / GRAPHS_FOLDER if packed else None,
        positions=positions,
        drift_budget=settings.drift_budget,
        bases_dir=settings.data_dir / basis.FOLDER if packed and settings.calibrate else None,
    )


def _count_positions(settings: Settings, checkpoint: AnyCheckpoint) -> int:
    return min(settings.context_tokens, checkpoint.declaration.context_tokens)


def open_engine(
    checkpoint: AnyCheckpoint, *, name: str, settings: Settings, on_build: Progress | None = None
) -> Engine:
    """Run a checkpoint; builds its graph the first time, telling `on_build` the share done."""
    begun_s = time.monotonic()
    tokenizer = open_tokenizer(checkpoint)
    grammars = GrammarCompiler(tokenizer)
    decoder, threads = _open_decoder(
        checkpoint, grammars=grammars, settings=settings, on_build=on_build
    )
    engine = Engine(
        decoder,
        name=name,
        tokenizer=tokenizer,
        template=open_template(checkpoint),
        grammars=grammars,
        queue_limit=settings.queue_limit,
        batch_limit=settings.batch_limit,
        step_tokens=settings.step_tokens,
        answer_tokens=settings.answer_tokens,
        spill=open_spill(settings, checkpoint=checkpoint.sha256),
        idle_s=settings.cache_idle_s,
    )
    log.info("%s runs on %d threads after %.1f s", name, threads, time.monotonic() - begun_s)
    return engine


@contextlib.contextmanager
def _prepare(grammars: GrammarCompiler) -> Generator[None]:
    """Take the vocabulary in for grammars beside the block, and wait for it at its end.

    With a large vocabulary that keeps every other thread from Python for a second. Now the block
    checks hashes meanwhile, for which it needs none; later, answers under way would stand still.
    """
    preparing = threading.Thread(target=grammars.prepare, name="grammar vocabulary", daemon=True)
    preparing.start()
    try:
        yield
    finally:
        preparing.join()


def _open_decoder(
    checkpoint: AnyCheckpoint,
    *,
    grammars: GrammarCompiler,
    settings: Settings,
    on_build: Progress | None,
) -> tuple[Decoder | FallbackDecoder, int]:
    """Return the decoder, and on how many threads it runs; `grammars` are ready then, too."""
    context_tokens = _count_positions(settings, checkpoint)
    if isinstance(checkpoint, OutlinedCheckpoint):
        threads = settings.threads or count_usable()
        with _prepare(grammars):
            fallback = FallbackDecoder(
                checkpoint,
                context_tokens=context_tokens,
                threads=threads,
                cache_bytes=settings.cache_bytes,
            )
        return fallback, threads
    with _prepare(grammars):
        graph_folder = ensure_graph(
            checkpoint,
            cache_dir=settings.data_dir / GRAPHS_FOLDER,
            positions=context_tokens,
            whole=settings.weights == "float32",
            progress=on_build,
        )
    decoder = Decoder(
        checkpoint,
        graph_folder=graph_folder,
        context_tokens=context_tokens,
        threads=settings.threads or 1,
        cache_tokens=count_cache_tokens(settings, declaration=checkpoint.declaration),
        cache_bits=_read_cache_bits(settings),
        adapter_slots=settings.batch_limit,
    )
    return decoder, settings.threads or choose_for(decoder).threads


def count_cache_tokens(settings: Settings, *, declaration: Declaration) -> int:
    """Return how many tokens the caches of all conversations may hold together.

    Raises InputError when not even a short conversation fits.
    """
    page_bytes = lay_out(declaration, cache_bits=_read_cache_bits(settings)).page_bytes
    if page_bytes == 0:
        return settings.batch_limit * settings.context_tokens
    tokens = settings.cache_bytes // page_bytes * PAGE_TOKENS
    if tokens < LEAST_CACHE_TOKENS:
        least = -(-LEAST_CACHE_TOKENS // PAGE_TOKENS) * page_bytes
        raise InputError(
            f"cache_bytes = {settings.cache_bytes} holds {tokens} tokens of this model; "
            f"give it {least} or more",
            param="cache_bytes",
        )
    return tokens


def _read_cache_bits(settings: Settings) -> CacheBits | None:
    return None if settings.cache_bits == "auto" else settings.cache_bits


def open_spill(settings: Settings, *, checkpoint: str) -> Spill | None:
    """Open the folder for the caches of idle conversations; None where the settings allow none."""
    if settings.cache_disk_bytes == 0:
        return None
    return Spill(
        settings.data_dir / "caches",
        checkpoint=checkpoint,
        version=f"{__version__} graph {GRAPH_VERSION} {settings.weights} {settings.cache_bits}",
        budget_bytes=settings.cache_disk_bytes,
    )


def _join(
    settings: Settings,
    *,
    info: ModelInfo,
    checkpoint: AnyCheckpoint,
    engine: Engine,
    store: Store,
    audit: AuditLog,
    guarding: Guarding,
    clearance: Clearance,
    canaries: CanarySet | None,
    learner: LearnerProcess,
    registry: Registry,
) -> Service:
    hub, record = Hub(), Record(audit)
    history = History(
        store,
        declaration=checkpoint.declaration,
        checkpoint=info.sha256,
        kept=max(LEAST_KEPT, 2 * settings.batch_limit),
        limits=Limits.from_settings(settings),
        on_drop=engine.forget_adapters,
        bases=basis.Bases(settings.data_dir / basis.FOLDER),
        on_discard=record.note_discard,
    )
    reader = Reader(
        store=store,
        history=history,
        learner=learner,
        tokenizer=engine.tokenizer,
        model=info.name,
        checkpoint=info.sha256,
        first_token=choose_first_token(engine.tokenizer),
        version_tokens=settings.version_tokens,
        on_event=record.listen(hub.publish),
    )
    first_token = choose_first_token(engine.tokenizer)

    def score(token_ids: Sequence[int], adapter: Adapter | None) -> Sequence[float]:
        tensors = None if adapter is None else adapter.tensors
        return learner.score([first_token], token_ids, tensors=tensors)

    return Service(
        settings=settings,
        model=info,
        engine=engine,
        store=store,
        history=history,
        reader=reader,
        learner=learner,
        hub=hub,
        audit=audit,
        guarding=guarding,
        clearance=clearance,
        installed=registry.list,
        checkpoint=checkpoint,
        score=score,
        measure=learner.measure_drift,
        canaries=None
        if canaries is None
        else _watch(
            canaries,
            settings=settings,
            checkpoint=info.sha256,
            engine=engine,
            store=store,
            history=history,
            hub=hub,
            record=record,
        ),
    )


def _watch(
    canaries: CanarySet,
    *,
    settings: Settings,
    checkpoint: str,
    engine: Engine,
    store: Store,
    history: History,
    hub: Hub,
    record: Record,
) -> Canaries:
    closing = threading.Event()
    return Canaries(
        canaries,
        store=store,
        history=history,
        hub=hub,
        record=record,
        ask=Asker(engine, closing=closing).ask,
        closing=closing,
        base=f"{checkpoint} graph {GRAPH_VERSION} {settings.weights} {settings.cache_bits}",
        checkpoint=checkpoint,
    )
