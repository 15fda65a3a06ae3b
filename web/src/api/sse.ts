/** Server-Sent Events, parsed from bytes that may be split anywhere, inside a character too. */

export interface SseEvent {
  name: string;
  data: string;
}

/** Turns pieces of a byte stream into whole events. Comments are dropped; an unfinished event waits. */
export class SseParser {
  #decoder = new TextDecoder();
  #rest = '';
  #name = '';
  #data: string[] = [];

  push(piece: Uint8Array): SseEvent[] {
    this.#rest += this.#decoder.decode(piece, { stream: true });
    const events: SseEvent[] = [];
    for (let line = this.#takeLine(); line !== null; line = this.#takeLine()) {
      const event = this.#readLine(line);
      if (event) events.push(event);
    }
    return events;
  }

  #takeLine(): string | null {
    const end = this.#rest.search(/[\r\n]/);
    if (end < 0) return null;
    const isReturn = this.#rest[end] === '\r';
    // A return at the very end may be the first half of a pair: wait for what follows.
    if (isReturn && end + 1 === this.#rest.length) return null;
    const line = this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end + (isReturn && this.#rest[end + 1] === '\n' ? 2 : 1));
    return line;
  }

  #readLine(line: string): SseEvent | null {
    if (line === '') return this.#finish();
    const colon = line.indexOf(':');
    if (colon === 0) return null;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'event') this.#name = value;
    else if (field === 'data') this.#data.push(value);
    return null;
  }

  #finish(): SseEvent | null {
    const event = this.#data.length ? { name: this.#name || 'message', data: this.#data.join('\n') } : null;
    this.#name = '';
    this.#data = [];
    return event;
  }
}

/** Yields the events of a response body until it ends. */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<SseEvent> {
  const parser = new SseParser();
  const reader = body.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    reader.releaseLock();
  }
}
