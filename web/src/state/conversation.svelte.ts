/** One conversation: its messages, the answer being written, and what went wrong. */

import { ask } from '../api/chat';
import { RequestError, client } from '../api/client';
import { follow, pause, type Listener } from '../api/event';
import type { Message, Session, Turn, Version } from '../api/type';
import { recallDraft, rememberDraft } from './draft';
import { explain } from './explain';
import { health } from './health.svelte';
import { Learning } from './learning.svelte';
import { list } from './list.svelte';
import { tellNotes } from '../text/note';
import { t } from './preference.svelte';
import { toasts } from './toast.svelte';
import { Uploads } from './upload.svelte';

const TITLE_CHARACTERS = 60;
const PATIENCE_MS = 1000;
const FOLLOW_OTHER_MS = 1000;

/** A problem, shown where it happened. */
export interface Problem {
  /** In the language of the moment. */
  text: () => string;
  retry: (() => void) | null;
}

/** The answer this tab is waiting for. `turn` is null until the server has stored the question. */
interface Pending {
  text: string;
  /** The question as the server stored it: the guard may have masked parts of it. */
  stored: Message | null;
  turn: Turn | null;
  stopping: boolean;
  controller: AbortController;
}

export class Conversation implements Listener {
  id = $state<string | null>(null);
  session = $state<Session | null>(null);
  messages = $state<Message[]>([]);
  learning = new Learning();
  uploads = new Uploads(
    (title) => this.#ensureSession(title),
    (reading) => this.learning.putReading(reading),
  );
  loaded = $state(false);
  missing = $state(false);
  problem = $state<Problem | null>(null);
  loadProblem = $state<string | null>(null);
  #draft = $state('');
  #pending = $state<Pending | null>(null);
  #following: AbortController | null = null;
  #creating: Promise<Session> | null = null;
  #held: (() => void)[] | null = null;
  #loads = 0;
  #otherTimer: ReturnType<typeof setTimeout> | undefined;
  #onCreate: (conversation: Conversation) => void;

  /** `id` null: a new conversation, made on the server with its first message or document. */
  constructor(id: string | null, onCreate: (conversation: Conversation) => void) {
    this.id = id;
    this.#onCreate = onCreate;
    this.#draft = recallDraft(id);
    this.loaded = id === null;
  }

  get draft(): string {
    return this.#draft;
  }

  set draft(text: string) {
    this.#draft = text;
    rememberDraft(this.id, text);
  }

  /** This tab is waiting for, or receiving, an answer. */
  get answering(): boolean {
    return this.#pending !== null;
  }

  /** Another tab or program is being answered in this conversation. */
  get busyElsewhere(): boolean {
    return !this.answering && (this.session?.busy ?? false);
  }

  get stopping(): boolean {
    return this.#pending?.stopping ?? false;
  }

  /** The question that was sent but is not yet known to be stored. */
  get unconfirmed(): string | null {
    return this.#pending && !this.#pending.turn ? this.#pending.text : null;
  }

  /** Id of the message that this tab is receiving. */
  get liveMessage(): string | null {
    return this.#pending?.turn?.message ?? null;
  }

  // Following the server

  /** Loads everything and follows changes, until `leave`. */
  enter(): void {
    if (!this.id || this.#following) return;
    const following = new AbortController();
    this.#following = following;
    void follow(this.id, this, following.signal);
    // Where the event stream is slow to open, the lists do not wait for it.
    void pause(PATIENCE_MS, following.signal).then(() => {
      if (!following.signal.aborted && this.#loads === 0) void this.load();
    });
  }

  leave(): void {
    this.#following?.abort();
    this.#following = null;
    clearTimeout(this.#otherTimer);
  }

  /** Reads session, messages, readings, scores and versions. Events that arrive meanwhile are applied after. */
  async load(): Promise<void> {
    const id = this.id;
    if (!id) return;
    this.#loads += 1;
    this.#held ??= [];
    try {
      const [session, messages] = await Promise.all([client.session(id), client.messages(id), this.learning.load(id)]);
      this.#takeSession(session);
      if (!this.unconfirmed) this.#takeMessages(messages);
      this.loaded = true;
      this.loadProblem = null;
    } catch (error) {
      this.#explainLoad(error);
    } finally {
      const held = this.#held;
      this.#held = null;
      for (const apply of held ?? []) apply();
    }
  }

  #explainLoad(error: unknown): void {
    if (error instanceof RequestError && error.status === 404) this.missing = true;
    else this.loadProblem = explain(error);
  }

  #apply(change: () => void): void {
    if (this.#held) this.#held.push(change);
    else change();
  }

  onOpen(): void {
    void this.load();
  }

  onSession(session: Session): void {
    this.#apply(() => this.#takeSession(session));
  }

  onMessage(message: Message): void {
    this.#apply(() => this.#putMessage(message));
  }

  onReading: Listener['onReading'] = (reading) => this.#apply(() => this.learning.putReading(reading));
  onScore: Listener['onScore'] = (score) => this.#apply(() => this.learning.putScore(score));
  onVersion: Listener['onVersion'] = (version) => this.#apply(() => this.#takeVersion(version));

  onGone(): void {
    this.missing = true;
  }

  /** A new version that is over the quota makes the oldest go, without an event: then the list is read again. */
  #takeVersion(version: Version): void {
    const { learning } = this;
    learning.putVersion(version);
    if (version.notes.some((note) => note.code === 'canary_failed')) toasts.show(t().note.told(version.number, tellNotes(version)));
    if (this.id && learning.limitBytes && learning.usedBytes > learning.limitBytes)
      learning.reloadVersions(this.id).catch(() => undefined);
  }

  #takeSession(session: Session): void {
    this.session = session;
    list.put(session);
    this.#followOther();
  }

  /** The API tells of other writers' answers only when they begin and end: look in between. */
  #followOther(): void {
    clearTimeout(this.#otherTimer);
    if (!this.busyElsewhere || !this.#following) return;
    this.#otherTimer = setTimeout(() => void this.#lookAgain(), FOLLOW_OTHER_MS);
  }

  async #lookAgain(): Promise<void> {
    if (!this.id) return;
    try {
      const [session, messages] = await Promise.all([client.session(this.id), client.messages(this.id)]);
      this.#takeMessages(messages);
      this.#takeSession(session);
    } catch {
      this.#followOther();
    }
  }

  /** A list read before the turn was stored lacks it: what this tab is being told stays, and stays last. */
  #takeMessages(messages: Message[]): void {
    const turn = this.#pending?.turn;
    const isOwn = (message: Message): boolean => message.id === turn?.user_message || message.id === turn?.message;
    this.messages = [...messages.filter((message) => !isOwn(message)), ...this.messages.filter(isOwn)];
  }

  #putMessage(message: Message): void {
    // The turn's own ids come with its stream; until then its messages would show twice.
    if (this.#pending && !this.#pending.turn) {
      if (message.role === 'user') this.#pending.stored = message;
      return;
    }
    if (message.id === this.liveMessage) return;
    const at = this.messages.findIndex((other) => other.id === message.id);
    if (at < 0) this.messages.push(message);
    else this.messages[at] = message;
  }

  // Talking

  /** Sends what is in the field. */
  send(): void {
    const text = this.draft.trim();
    if (!text || this.answering || this.busyElsewhere) return;
    this.draft = '';
    void this.ask(text);
  }

  /** Asks `text`. Where that fails before the server stored it, the text goes back into the field. */
  async ask(text: string): Promise<void> {
    const pending: Pending = { text, stored: null, turn: null, stopping: false, controller: new AbortController() };
    this.problem = null;
    this.#pending = pending;
    try {
      const session = await this.#ensureSession('');
      rememberDraft(session.id, text);
      await this.#receive(session);
    } catch (error) {
      await this.#recover(error, text);
    } finally {
      this.#pending = null;
      rememberDraft(this.id, this.draft);
    }
    await this.#refreshSession();
  }

  async #receive(session: Session): Promise<void> {
    const pending = this.#pending;
    if (!pending || pending.controller.signal.aborted) throw new DOMException('', 'AbortError');
    const parent = this.messages.at(-1)?.id ?? null;
    const question = { session: session.id, parent, text: pending.text, model: session.model };
    let finished = false;
    try {
      for await (const piece of ask(question, pending.controller.signal)) {
        if (piece.turn) this.#takeTurn(piece.turn);
        finished ||= piece.finish !== null;
        const answer = this.messages.find((message) => message.id === this.liveMessage);
        if (!answer) continue;
        answer.content += piece.text;
        if (piece.guard) answer.guard = piece.guard;
        if (piece.finish) answer.finish = piece.finish;
      }
    } catch (error) {
      // The answer is whole once its finish has come: a connection that breaks after it loses nothing.
      if (!finished) throw error;
    }
    if (!finished || this.stopping) throw new RequestError('', 0, 'broken');
  }

  #takeTurn(turn: Turn): void {
    if (!this.#pending) return;
    if (!this.#pending.turn) {
      rememberDraft(this.id, this.draft);
      const common = { created_at: Date.now() / 1000, version: turn.version, finish: null, passages: [] };
      const { stored, text } = this.#pending;
      const content = stored?.id === turn.user_message ? stored.content : text;
      const question: Message = { id: turn.user_message, role: 'user', content, ...common };
      const answer: Message = { id: turn.message, role: 'assistant', content: '', ...common };
      const others = this.messages.filter((one) => one.id !== question.id && one.id !== answer.id);
      this.messages = [...others, question, answer];
    }
    this.#pending.turn = turn;
    const answer = this.messages.find((message) => message.id === turn.message);
    if (!answer) return;
    answer.version = turn.version;
    answer.passages = turn.passages;
  }

  async #recover(error: unknown, text: string): Promise<void> {
    const pending = this.#pending;
    const known = pending?.turn ?? null;
    if (pending?.stopping) return this.#settle(text);
    if (error instanceof RequestError && error.unreachable) void health.check();
    if (known) return this.#explainBreak(error, known);
    this.#putBack(text);
    this.problem = { text: () => explainUnsent(error), retry: () => this.send() };
    if (this.id) await this.#reloadAfterFailure(error, text);
  }

  /** The stream broke after the question was stored: keep what arrived and say so. */
  async #explainBreak(error: unknown, turn: Turn): Promise<void> {
    const answer = this.messages.find((message) => message.id === turn.message);
    if (answer) answer.finish = 'error';
    const told = error instanceof RequestError && error.message !== '';
    this.problem = { text: () => (told ? explain(error) : t().error.broken), retry: null };
    await this.#reload();
  }

  #putBack(text: string): void {
    this.draft = this.draft.trim() ? `${text}\n\n${this.draft}` : text;
  }

  /** After silence nobody knows whether the question arrived. If it is there, the field gives it up. */
  async #reloadAfterFailure(error: unknown, text: string): Promise<void> {
    const isUnsure = !(error instanceof RequestError) || error.unreachable;
    const before = this.messages.at(-1)?.id;
    if (!(await this.#reload())) return;
    const stored = this.messages.findLast((message) => message.role === 'user');
    const isNew = this.messages.at(-1)?.id !== before;
    if (isUnsure && isNew && stored?.content === text && this.draft === text) {
      this.draft = '';
      this.problem = null;
    }
  }

  async #reload(): Promise<boolean> {
    if (!this.id) return false;
    try {
      const messages = await client.messages(this.id);
      if (this.#pending) this.#pending.turn = null;
      this.#takeMessages(messages);
      return true;
    } catch {
      return false;
    }
  }

  /** Stops the answer being written here or elsewhere: the server is told, and the stream is dropped. */
  stop(): void {
    if (this.id) client.stop(this.id).catch(() => void health.check());
    if (!this.#pending) return;
    this.#pending.stopping = true;
    this.#pending.controller.abort();
  }

  /** After a stop: waits until the server has let go, then shows exactly what it kept. */
  async #settle(text: string): Promise<void> {
    const turn = this.#pending?.turn ?? null;
    if (!turn) this.#putBack(text);
    if (!this.id) return;
    for (let attempt = 0; attempt < 10; attempt++) {
      const session = await client.session(this.id).catch(() => null);
      if (!session?.busy) break;
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
    const answer = this.messages.find((message) => message.id === turn?.message);
    if (answer) answer.finish = 'cancelled';
    await this.#reload();
    const stored = this.messages.findLast((message) => message.role === 'user');
    if (!turn && stored?.content === text && this.draft === text) this.draft = '';
  }

  async #refreshSession(): Promise<void> {
    if (!this.id) return;
    try {
      this.#takeSession(await client.session(this.id));
    } catch {
      void health.check();
    }
  }

  /** Makes the session on the server if this conversation has none yet. */
  async #ensureSession(title: string): Promise<Session> {
    if (this.session) return this.session;
    if (this.id) return client.session(this.id);
    this.#creating ??= client.createSession(shorten(title));
    try {
      const session = await this.#creating;
      if (this.id === null) this.#adopt(session);
      return session;
    } finally {
      this.#creating = null;
    }
  }

  #adopt(session: Session): void {
    rememberDraft(null, '');
    this.id = session.id;
    this.draft = this.#draft;
    this.#takeSession(session);
    this.#onCreate(this);
  }
}

/** Nothing was stored: says why, and where the text is now. */
function explainUnsent(error: unknown): string {
  const code = error instanceof RequestError ? error.code : '';
  if (code === 'session_changed') return t().error.sessionChanged;
  if (code === 'session_busy') return t().error.sessionBusy;
  return `${explain(error)} ${t().error.unsent}`;
}

function shorten(title: string): string {
  const line = title.trim().split('\n')[0] ?? '';
  const characters = [...line];
  return characters.length > TITLE_CHARACTERS ? `${characters.slice(0, TITLE_CHARACTERS - 1).join('')}…` : line;
}
