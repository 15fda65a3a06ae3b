/** Asks people to confirm what can't be taken back. One question at a time. */

export interface Question {
  title: string;
  text: string;
  confirm: string;
  danger: boolean;
  /** A box that can be ticked beside the answer. */
  option?: string;
}

class Questions {
  current = $state<Question | null>(null);
  /** Whether the box is ticked. */
  ticked = $state(false);
  #answer: (yes: boolean) => void = () => undefined;

  /** Resolves to true only where the person confirmed. */
  ask(question: Question): Promise<boolean> {
    this.#answer(false);
    this.ticked = false;
    this.current = question;
    return new Promise((resolve) => (this.#answer = resolve));
  }

  answer(yes: boolean): void {
    this.current = null;
    this.#answer(yes);
  }
}

export const questions = new Questions();
