import type { Sandbox, SandboxManager } from '../../src/index.js';
import type { Random } from '../fixtures/many/random.js';

/** What all lives of a soak share. */
export interface Ground {
  readonly manager: SandboxManager;
  /** Of a service of the same manager. */
  readonly url: string;
  /** On the host, with a directory `in` to copy from; what is copied out goes beside it. */
  readonly directory: string;
  /** Lives as long as the soak, and is used by all. */
  readonly resident: Sandbox;
  readonly random: Random;
  /** Given to every call and never aborted: whoever goes on listening to it shows there. */
  readonly signal: AbortSignal;
}
