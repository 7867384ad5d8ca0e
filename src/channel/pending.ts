import type { Tunnel } from './tunnel.js';

/** Something that waits for an answer, and is repeated on the next tunnel when this one is cut. */
export interface Pending {
  /** Whether it went out on any tunnel. */
  readonly sent: boolean;
  /** Whether it is about a process, none of which outlives a stop of the sandbox. */
  readonly endsWithSandbox: boolean;
  sendOn(tunnel: Tunnel): void;
  /** The tunnel that it was sent on is no more. */
  cut(): void;
  /** Called at most once, and after that nothing is. */
  fail(error: Error): void;
}

/** Where what waits is kept. */
export interface PendingHost {
  /** Why there is no tunnel, where one was tried for. */
  readonly trouble: Error | undefined;
  /** It waits no more. */
  leave(pending: Pending): void;
}
