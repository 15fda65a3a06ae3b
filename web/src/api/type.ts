/** The objects of docs/api.md, field for field. Times are seconds since the epoch. */

export type Learning = 'on' | 'frozen';
export type Finish = 'stop' | 'length' | 'tool_calls' | 'content_filter' | 'cancelled' | 'deadline' | 'error';
/** Why a chunk was not learned from; empty where it was, or where nobody noted it. */
export type Unlearned = '' | 'frozen' | 'short' | 'unsurprising' | 'not_finite';
export type Origin = 'read' | 'merge' | 'import' | 'adopt' | 'branch';
/** What is not as usual about a version: a code, and its own figures. */
export type Note =
  | { code: 'scaled_back'; drift: number | null; budget: number }
  | { code: 'over_budget'; budget: number }
  | { code: 'not_finite' }
  | { code: 'chunk_not_finite' }
  | { code: 'reads_worse'; excess: number; halved: boolean }
  | { code: 'compressed'; rank: number; from_rank: number | null; loss: number }
  | { code: 'unmeasured' }
  | { code: 'imported'; format: string }
  | { code: 'adopted'; name: string }
  | { code: 'canary_failed'; failed: number; counted: number; back_to: number | null }
  | { code: 'old_drift'; change: number }
  | { code: 'parent_deleted' }
  | { code: 'plain'; text: string };
export type ReadingStatus = 'queued' | 'reading' | 'done' | 'cancelled' | 'failed';

export interface Session {
  id: string;
  title: string;
  model: string;
  learning: Learning;
  version: number;
  created_at: number;
  updated_at: number;
  busy: boolean;
  reading: boolean;
  available: boolean;
  context: { used_tokens: number; limit_tokens: number };
}

export interface Passage {
  reading: string;
  name: string;
  tokens: number;
}

/** What the guard did to an answer. `message` says what can be asked instead; empty for `redact`. */
export interface Guard {
  action: 'redact' | 'refuse' | 'stop';
  category: string;
  message: string;
}

export interface Message {
  id: string;
  role: 'system' | 'user' | 'assistant';
  content: string;
  created_at: number;
  version: number;
  finish: Finish | null;
  passages: Passage[];
  /** Missing where the server is older than its guard. */
  guard?: Guard | null;
}

export interface Reading {
  id: string;
  session: string;
  kind: 'document' | 'message';
  name: string;
  status: ReadingStatus;
  bytes: number;
  /** Whether its text is still there. */
  text: boolean;
  tokens_total: number | null;
  tokens_read: number;
  tokens_per_s: number | null;
  seconds_left: number | null;
  created_at: number;
  error: string | null;
}

export interface Score {
  index: number;
  reading: string;
  start: number;
  tokens: number;
  bytes: number;
  frozen_bits_per_byte: number;
  adapted_bits_per_byte: number;
  version: number;
  learned: boolean;
  reason: Unlearned;
  /** What scoring it and learning from it took; null where nobody measured. */
  seconds: number | null;
  created_at: number;
}

export interface Version {
  number: number;
  /** Names its content: the same base, rule and adapter have the same id everywhere. */
  id: string;
  short: string;
  /** What was in force before it, 0 the base; an undo goes back there. */
  parent: number;
  /** Ids of what its content was made from. */
  parents: string[];
  origin: Origin;
  reading: string | null;
  tokens_learned: number;
  updates: number;
  skipped: number;
  /** Of the text it learned, before it did: as the adapter was, and under the base. */
  score_before_bits_per_byte: number | null;
  frozen_bits_per_byte: number | null;
  /** Nats a token on a fixed probe; null where it was not measured. */
  drift: number | null;
  /** Less than 1 where it was scaled back to its drift budget. */
  scale: number;
  /** The server's `note` says the same in English. */
  notes: Note[];
  /** JSON of the rule that made it, empty where it is not known. */
  rule: string;
  pinned: boolean;
  expires_at: number | null;
  bytes: number;
  sha256: string;
  created_at: number;
}

/** The versions of a session, oldest first; the base is not among them. */
export interface VersionList {
  current: number;
  drift_budget: number;
  bytes: number;
  limit_bytes: number;
  data: Version[];
}

/** A copy of a version that its owner gave to everyone on this server. */
export interface Publication {
  name: string;
  yours: boolean;
  model: string;
  checkpoint: string;
  /** The version's. */
  id: string;
  short: string;
  origin: Origin;
  tokens_learned: number;
  drift: number | null;
  notes: Note[];
  bytes: number;
  created_at: number;
}

/** One version of a merge. `session` missing: the one that is merged into. */
export type Part = { weight: number } & ({ published: string } | { version: string; session?: string });

export interface Comparison {
  tokens: number;
  bytes: number;
  a: { number: number; bits_per_byte: number };
  b: { number: number; bits_per_byte: number };
  base: { number: number; bits_per_byte: number };
}

export type Format = 'fluvial' | 'peft' | 'gguf';

export interface Health {
  status: string;
  model: string | null;
  version: string;
  learner: 'ready' | 'starting' | 'restarting' | 'off';
  guard?: 'on' | 'off';
  release?: Release;
  /** First digits of the sha256 of what the server loaded, by name. */
  subjects?: Record<string, string>;
}

/** Whether what is served was tested and signed for. Times are seconds since the epoch. */
export interface Release {
  mode: 'development' | 'production';
  status: 'released' | 'not released';
  reason: string;
  expires_at: number | null;
  plan: string | null;
}

/** What a chat completion says about the session it ran in. */
export interface Turn {
  session: string;
  user_message: string;
  message: string;
  version: number;
  passages: Passage[];
  /** Ours, in the last chunk: OpenAI has no word for an answer that someone stopped. */
  finish?: Finish | null;
  guard?: Guard | null;
}
