/** What is published on this server, by whoever, in the order of names. */

import { client } from '../api/client';
import type { Publication, Version } from '../api/type';

class Published {
  list = $state<Publication[]>([]);

  async refresh(): Promise<void> {
    this.list = await client.published();
  }

  put(publication: Publication): void {
    this.list = [...this.list.filter((one) => one.name !== publication.name), publication].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  drop(name: string): void {
    this.list = this.list.filter((one) => one.name !== name);
  }

  /** The names under which one has published this content oneself. */
  namesOf(version: Version): string[] {
    return this.list.filter((one) => one.yours && one.id === version.id).map((one) => one.name);
  }
}

export const published = new Published();
