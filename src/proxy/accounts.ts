import { Transform, type TransformCallback } from 'node:stream';

import type { DenyReason } from './decisions.ts';
import type { PolicyFile } from './files.ts';

/** Of all sandboxes together: the proxy has room for so many. */
const MAX_CONNECTIONS = 2048;
/** How many connections a sandbox may begin at once, and how many a second from then on. */
const BURST = 200;
const PER_SECOND = 50;
const TELL_MS = 1000;

/** What one sandbox has used. */
class Account {
  bytes = 0;
  connections = 0;
  #tokens = BURST;
  #filledAt = performance.now();
  #toldAt = -Infinity;

  /** Whether it is to be told of what is too much, which is once in a while: a flood must not become one of entries. */
  tell(): boolean {
    const due = performance.now() - this.#toldAt > TELL_MS;
    if (due) this.#toldAt = performance.now();
    return due;
  }

  /** Whether it may begin another connection now. */
  take(): boolean {
    const now = performance.now();
    this.#tokens = Math.min(BURST, this.#tokens + ((now - this.#filledAt) / 1000) * PER_SECOND);
    this.#filledAt = now;
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }
}

export type Admission =
  { readonly account: Account; release(): void } | { readonly reason: DenyReason; readonly detail: string };

/** What all sandboxes use, and may. */
export class Accounts {
  readonly #accounts = new Map<string, Account>();
  #connections = 0;

  /** Whether a sandbox may ask for something now; and where it may not, whether that is to be written down. */
  ask({ sandbox }: PolicyFile): 'yes' | 'no' | 'told' {
    const account = this.#of(sandbox);
    if (account.take()) return 'yes';
    return account.tell() ? 'no' : 'told';
  }

  /** Lets a connection in, until it is released. */
  enter({ sandbox, maxConnections, maxBytes }: PolicyFile): Admission {
    const account = this.#of(sandbox);
    if (account.connections >= maxConnections || this.#connections >= MAX_CONNECTIONS) {
      return { reason: 'too_many_connections', detail: `${account.connections} are open.` };
    }
    if (maxBytes !== null && account.bytes >= maxBytes) {
      return { reason: 'bytes_exhausted', detail: `It has sent and received the ${maxBytes} bytes that it may.` };
    }
    account.connections += 1;
    this.#connections += 1;
    let entered = true;
    const release = () => {
      if (!entered) return;
      entered = false;
      account.connections -= 1;
      this.#connections -= 1;
    };
    return { account, release };
  }

  /** Of what is gone nothing is to be remembered. */
  keepOnly(there: ReadonlySet<string>): void {
    for (const id of this.#accounts.keys()) if (!there.has(id)) this.#accounts.delete(id);
  }

  #of(sandbox: string): Account {
    const account = this.#accounts.get(sandbox) ?? new Account();
    this.#accounts.set(sandbox, account);
    return account;
  }
}

export type { Account };

/** Counts what goes through it, lets it through no faster than it may, and fails when there was too much. */
export class Meter extends Transform {
  readonly #account: Account;
  readonly #policy: PolicyFile;
  #freeAt = 0;

  constructor(account: Account, policy: PolicyFile) {
    super();
    this.#account = account;
    this.#policy = policy;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    const { maxBytes, bytesPerSecond } = this.#policy;
    this.#account.bytes += chunk.length;
    if (maxBytes !== null && this.#account.bytes > maxBytes) {
      done(new BytesExhausted(`It has sent and received the ${maxBytes} bytes that it may.`));
      return;
    }
    if (bytesPerSecond === null) {
      done(null, chunk);
      return;
    }
    const now = performance.now();
    const waitMs = Math.max(0, this.#freeAt - now);
    this.#freeAt = Math.max(now, this.#freeAt) + (chunk.length / bytesPerSecond) * 1000;
    setTimeout(() => done(null, chunk), waitMs);
  }
}

export class BytesExhausted extends Error {}
