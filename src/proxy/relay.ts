import { connect, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';

import { Accounts, BytesExhausted, type Account } from './accounts.ts';
import { judgeTarget, toRules, type DenyReason, type Lookups, type Target } from './decisions.ts';
import { readPolicy, sandboxesIn, type DecisionLog, type PolicyFile } from './files.ts';
import { readSecrets, type SecretsFile } from './secrets.ts';

const CONNECT_MS = 4000;
/** Nothing in either direction for so long, and a connection is closed. */
const IDLE_MS = 5 * 60_000;
/** How often open connections are compared with the policies. */
const REVIEW_MS = 250;
/** After how many of these what is known of sandboxes that are gone is forgotten. */
const FORGET_AFTER = 240;

export interface RelayParts {
  readonly root: string;
  readonly lookups: Lookups;
  readonly log: DecisionLog;
}

/** Whose a connection is. */
export interface Client {
  readonly address: string;
  readonly policy: PolicyFile;
}

/** What a sandbox has asked for, and may have. */
export interface Passage {
  readonly client: Client;
  readonly method: string;
  readonly host: string;
  readonly port: number;
  readonly rule: string;
  /** The checked address that is connected to. */
  readonly address: string;
  readonly upstream: Socket;
  readonly account: Account;
}

export interface Refusal {
  readonly reason: DenyReason;
  readonly detail: string;
}

interface Open {
  readonly passage: Passage;
  readonly stream: Duplex;
}

/** Decides on what sandboxes ask for, makes the connections that they may have, and cuts those that they no longer may. */
export class Relay {
  readonly #parts: RelayParts;
  readonly #accounts = new Accounts();
  readonly #open = new Set<Open>();
  #reviews = 0;

  constructor(parts: RelayParts) {
    this.#parts = parts;
  }

  /** Reviews open connections, until the program ends. */
  start(): void {
    const again = () => setTimeout(() => void this.#review().then(again, again), REVIEW_MS);
    again();
  }

  /** Whose it is; `undefined` where it is no sandbox's, came by a way that isn't that sandbox's, or comes too often. */
  async identify({ remoteAddress, localAddress }: Pick<Socket, 'remoteAddress' | 'localAddress'>) {
    const address = remoteAddress?.replace(/^::ffff:/, '') ?? '';
    const policy = await readPolicy(this.#parts.root, address);
    if (policy === undefined || policy.proxy !== localAddress?.replace(/^::ffff:/, '')) return undefined;
    const client = { address, policy };
    const may = this.#accounts.ask(policy);
    if (may === 'yes') return client;
    const target = { method: '-', host: '-', port: 0 };
    if (may === 'no') this.deny(client, target, { reason: 'too_many_requests', detail: 'It asks too often.' });
    return undefined;
  }

  /** As they are now: what has changed since it was connected holds, too. */
  secretsOf({ address, policy: { sandbox } }: Client): Promise<SecretsFile> {
    return readSecrets(this.#parts.root, { address, sandbox });
  }

  deny({ policy }: Client, target: Target & { method: string }, { reason, detail }: Refusal): Refusal {
    const { method, host, port } = target;
    const about = { method, host: host.slice(0, 253), port };
    this.#parts.log.write(policy, { ...about, decision: 'denied', reason, rule: null, address: null, detail });
    return { reason, detail };
  }

  /** Connects to what is asked for, or says why not; either is written down. */
  async pass(client: Client, target: Target & { method: string }): Promise<Passage | Refusal> {
    const { method } = target;
    const verdict = judgeTarget(target, toRules(client.policy.allow));
    if (!verdict.allowed) return this.deny(client, { ...verdict, method }, verdict);
    const { host, port, rule } = verdict;
    const about = { method, host, port };
    const admission = this.#accounts.enter(client.policy);
    if ('reason' in admission) return this.deny(client, about, admission);
    try {
      const found = await this.#parts.lookups.find(host);
      if ('reason' in found) {
        admission.release();
        return this.deny(client, about, found);
      }
      const upstream = await connectTo(found.address, port);
      upstream.once('close', () => admission.release());
      if (upstream.destroyed) admission.release();
      return { client, ...about, rule, address: found.address, upstream, account: admission.account };
    } catch (error) {
      admission.release();
      return this.deny(client, about, { reason: 'connect_failed', detail: (error as Error).message });
    }
  }

  /** What it carries may flow. Writes that down, and keeps an eye on it from now on. */
  accept(passage: Passage, stream: Duplex, { detail = null }: { detail?: string | null } = {}): void {
    const { client, method, host, port, rule, address } = passage;
    const about = { method, host, port, rule, address, reason: null, detail };
    this.#parts.log.write(client.policy, { ...about, decision: 'allowed' });
    const open = { passage, stream };
    this.#open.add(open);
    const end = () => this.#open.delete(open);
    passage.upstream.once('close', end);
    stream.once('close', end);
  }

  /** What broke a connection off, where it was we. */
  broke({ client, ...target }: Passage, error: unknown): void {
    if (!(error instanceof BytesExhausted)) return;
    this.deny(client, target, { reason: 'bytes_exhausted', detail: error.message });
  }

  async #review(): Promise<void> {
    const clients = new Map([...this.#open].map(({ passage: { client } }) => [client.address, client]));
    for (const {
      address,
      policy: { sandbox },
    } of clients.values()) {
      const policy = await readPolicy(this.#parts.root, address);
      const rules = policy?.sandbox === sandbox ? toRules(policy.allow) : [];
      for (const { passage, stream } of this.#open) {
        const { client, host, port } = passage;
        if (client.address !== address || judgeTarget({ host, port }, rules).allowed) continue;
        const detail = 'The allow-list was changed while it was open.';
        if (policy !== undefined) this.deny({ address, policy }, passage, { reason: 'policy_changed', detail });
        stream.destroy();
        passage.upstream.destroy();
      }
    }
    this.#reviews += 1;
    if (this.#reviews % FORGET_AFTER !== 0) return;
    const there = await sandboxesIn(this.#parts.root);
    this.#accounts.keepOnly(there);
    this.#parts.log.keepOnly(there);
  }
}

function connectTo(host: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, allowHalfOpen: true });
    const timer = setTimeout(() => socket.destroy(new Error('It did not answer in time.')), CONNECT_MS);
    socket.once('error', reject);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.off('error', reject);
      socket.on('error', () => {}); // what reads and writes is told
      socket.setTimeout(IDLE_MS, () => socket.destroy());
      resolve(socket);
    });
    socket.once('close', () => clearTimeout(timer));
  });
}
