/** The objects of docs/api.md, field for field. Times are seconds since the epoch. */

export type Learning = 'on' | 'frozen';
export type Finish = 'stop' | 'length' | 'tool_calls' | 'cancelled' | 'deadline' | 'error';
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

export interface Message {
  id: string;
  role: 'system' | 'user' | 'assistant';
  content: string;
  created_at: number;
  version: number;
  finish: Finish | null;
  passages: Passage[];
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
  created_at: number;
}

export interface Version {
  number: number;
  parent: number;
  reading: string | null;
  tokens_learned: number;
  updates: number;
  drift: number;
  bytes: number;
  sha256: string;
  created_at: number;
}

export interface Health {
  status: string;
  model: string | null;
  version: string;
  learner: 'ready' | 'starting' | 'restarting' | 'off';
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
}
