import type { RemoteExit } from '../channel/messages.js';
import type { RemoteProcess } from '../channel/remote-process.js';
import type { HeldChannel } from './remote-run.js';

/** One reader of a process. */
export interface Attachment {
  readonly remote: RemoteProcess;
  readonly held: HeldChannel;
}

export interface AttachmentEvents {
  /** A reader has read it to its end. */
  readonly ended: (exit: RemoteExit) => void;
  /** A reader ended before the process, as far as it knows. */
  readonly failed: (error: unknown) => void;
}

/** The readers of one process that one handle has. */
export class Attachments {
  readonly #hold: () => HeldChannel;
  readonly #id: string;
  readonly #events: AttachmentEvents;
  readonly #attached = new Set<Attachment>();

  constructor(hold: () => HeldChannel, { id, events }: { id: string; events: AttachmentEvents }) {
    this.#hold = hold;
    this.#id = id;
    this.#events = events;
  }

  get size(): number {
    return this.#attached.size;
  }

  has(attachment: Attachment): boolean {
    return this.#attached.has(attachment);
  }

  /** Reads from after the piece of output with this number. */
  attach(after: number): Attachment {
    const held = this.#hold();
    return this.keep({ held, remote: held.channel.attach(this.#id, { after }) });
  }

  keep(attachment: Attachment): Attachment {
    this.#attached.add(attachment);
    attachment.remote.started.catch(() => {}); // its output fails with the same
    attachment.remote.exit.then(
      (exit) => {
        this.#events.ended(exit);
        this.drop(attachment);
      },
      (error: unknown) => {
        this.#events.failed(error);
        this.drop(attachment);
      },
    );
    return attachment;
  }

  drop(attachment: Attachment): void {
    if (!this.#attached.delete(attachment)) return;
    attachment.remote.detach();
    attachment.held.release();
  }

  dropAll(): void {
    for (const attachment of this.#attached) this.drop(attachment);
  }
}
