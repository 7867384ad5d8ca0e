/**
 * What the engine's clock says, by which sandboxes age. It is read with the engine's description, and goes on from there by
 * a clock of ours that nobody sets: a jump of our wall clock changes nothing.
 */
export class EngineClock {
  #read: { readonly time: number; readonly at: number } | undefined;

  /** Notes what the engine's clock said just now. */
  see(systemTime: Date): void {
    this.#read = { time: systemTime.getTime(), at: performance.now() };
  }

  /** Ours, until the engine's was seen. */
  now(): Date {
    return this.#read === undefined ? new Date() : new Date(this.#read.time + performance.now() - this.#read.at);
  }
}
