/** Short notices at the edge of the page, for things that happened and need no decision. */

export interface Toast {
  key: number;
  text: string;
  action: { label: string; run: () => void } | null;
}

const SHOWN_MS = 6000;

class Toasts {
  list = $state<Toast[]>([]);
  #last = 0;

  show(text: string, action: Toast['action'] = null): void {
    const key = ++this.#last;
    this.list = [...this.list.slice(-2), { key, text, action }];
    setTimeout(() => this.dismiss(key), SHOWN_MS);
  }

  dismiss(key: number): void {
    this.list = this.list.filter((toast) => toast.key !== key);
  }
}

export const toasts = new Toasts();
