/** One streamed answer inside a session. */

import { RequestError, request } from './client';
import { readEvents } from './sse';
import type { Finish, Guard, Turn } from './type';

export interface Piece {
  text: string;
  finish: Finish | null;
  turn: Turn | null;
  guard: Guard | null;
}

interface Chunk {
  choices?: { delta?: { content?: string | null }; finish_reason?: Finish | null }[];
  fluvial?: Turn;
  error?: { message?: string; code?: string | null };
}

export interface Question {
  session: string;
  parent: string | null;
  text: string;
  model: string;
}

/** Asks and yields pieces as they come. Ends without a `finish` where the connection broke. */
export async function* ask(question: Question, signal: AbortSignal): AsyncGenerator<Piece> {
  const body = {
    model: question.model,
    messages: [{ role: 'user', content: question.text }],
    stream: true,
    fluvial: { session: question.session, parent: question.parent },
  };
  const headers = { 'content-type': 'application/json', accept: 'text/event-stream' };
  const init = { method: 'POST', headers, body: JSON.stringify(body), signal };
  const response = await request('/v1/chat/completions', init);
  if (!response.body) throw new RequestError('', 0, 'unreachable');
  for await (const event of readEvents(response.body)) {
    // The body is read to its end even so: leaving it early would count as a broken connection.
    if (event.data !== '[DONE]') yield readChunk(JSON.parse(event.data) as Chunk);
  }
}

function readChunk(chunk: Chunk): Piece {
  if (chunk.error) throw new RequestError(chunk.error.message ?? '', 500, chunk.error.code ?? '');
  const choice = chunk.choices?.[0];
  return {
    text: choice?.delta?.content ?? '',
    finish: chunk.fluvial?.finish ?? choice?.finish_reason ?? null,
    turn: chunk.fluvial ?? null,
    guard: chunk.fluvial?.guard ?? null,
  };
}
