import { appendFileSync, mkdirSync, readFileSync, renameSync, statSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { parseAddress } from './addresses.ts';
import type { DenyReason } from './decisions.ts';

/*
 * What the proxy and its managers share: files on a volume, which outlive the proxy. A manager writes policies, each by
 * replacing its file at once, and the proxy what it has decided.
 */

/** What one sandbox may do. Named after the address that it has, which is its own for as long as its network is there. */
export interface PolicyFile {
  readonly sandbox: string;
  /** The address of the proxy in the sandbox's network: only what was sent to that one is the sandbox's. */
  readonly proxy: string;
  readonly allow: readonly string[];
  /** What a caller asked to be allowed; only for managers. */
  readonly asked: readonly string[];
  /** Whether all that is allowed is written down, so that an allow-list can be made of it. */
  readonly learn: boolean;
  /** How many connections it may have at once. */
  readonly maxConnections: number;
  /** How many bytes it may send and receive in all; `null` for any number. */
  readonly maxBytes: number | null;
  /** How many bytes a second, in each direction of each connection; `null` for as many as there can be. */
  readonly bytesPerSecond: number | null;
}

export interface LogEntry {
  /** Counts the entries of one sandbox from 1. */
  readonly seq: number;
  readonly at: string;
  readonly method: string;
  readonly host: string;
  readonly port: number;
  readonly decision: 'allowed' | 'denied';
  /** Of what was denied. */
  readonly reason: DenyReason | null;
  /** The rule by which it was allowed. */
  readonly rule: string | null;
  /** What was connected to. */
  readonly address: string | null;
  readonly detail: string | null;
}

export const POLICIES = 'policies';
export const LOGS = 'logs';
/** A log has two files; when the newer one is full, it takes the place of the older one. */
const MAX_LOG_BYTES = 128 * 1024;
/** How many hosts are learnt. */
const MAX_LEARNT = 500;

export function policyPath(root: string, address: string): string {
  return join(root, POLICIES, `${address}.json`);
}

/** The newer and the older file of a log, and that with what was learnt. */
export function logPaths(root: string, sandbox: string): { newer: string; older: string; learnt: string } {
  const path = (name: string) => join(root, LOGS, `${sandbox}.${name}`);
  return { newer: path('log'), older: path('old'), learnt: path('learnt') };
}

/** The policy of whoever has the address; `undefined` where there is none that can be read. */
export async function readPolicy(root: string, address: string): Promise<PolicyFile | undefined> {
  if (parseAddress(address) === undefined) return undefined;
  try {
    return JSON.parse(await readFile(policyPath(root, address), 'utf8')) as PolicyFile;
  } catch {
    return undefined;
  }
}

/** Those that have a policy. */
export async function sandboxesIn(root: string): Promise<Set<string>> {
  const found = await readdir(join(root, POLICIES));
  const policies = await Promise.all(found.map((name) => readPolicy(root, name.replace(/\.json$/, ''))));
  return new Set(policies.flatMap((policy) => policy?.sandbox ?? []));
}

interface Written {
  seq: number;
  bytes: number;
  readonly learnt: Set<string>;
}

/** Writes the logs of all sandboxes, each bounded for itself: one that does much pushes out nobody else's entries. */
export class DecisionLog {
  readonly #root: string;
  readonly #known = new Map<string, Written>();

  constructor(root: string) {
    this.#root = root;
    for (const name of [POLICIES, LOGS]) mkdirSync(join(root, name), { recursive: true });
  }

  write({ sandbox, learn }: PolicyFile, entry: Omit<LogEntry, 'seq' | 'at'>): void {
    const paths = logPaths(this.#root, sandbox);
    const known = this.#open(sandbox);
    known.seq += 1;
    const said = { method: plain(entry.method), host: plain(entry.host), detail: entry.detail && plain(entry.detail) };
    const line = `${JSON.stringify({ seq: known.seq, at: new Date().toISOString(), ...entry, ...said })}\n`;
    if (known.bytes + line.length > MAX_LOG_BYTES) {
      renameSync(paths.newer, paths.older);
      known.bytes = 0;
    }
    appendFileSync(paths.newer, line);
    known.bytes += line.length;
    if (!learn || entry.decision !== 'allowed') return;
    const host = [80, 443].includes(entry.port) ? entry.host : `${entry.host}:${entry.port}`;
    if (known.learnt.has(host) || known.learnt.size >= MAX_LEARNT) return;
    known.learnt.add(host);
    appendFileSync(paths.learnt, `${host}\n`);
  }

  /** Those of others are gone, with their files. */
  keepOnly(there: ReadonlySet<string>): void {
    for (const id of this.#known.keys()) if (!there.has(id)) this.#known.delete(id);
  }

  /** Goes on where the log ends that is there: another proxy may have written it. */
  #open(sandbox: string): Written {
    const known = this.#known.get(sandbox);
    if (known !== undefined) return known;
    const { newer, older, learnt } = logPaths(this.#root, sandbox);
    const last = lastSeq(newer) ?? lastSeq(older) ?? 0;
    const opened = { seq: last, bytes: sizeOf(newer), learnt: new Set(linesOf(learnt)) };
    this.#known.set(sandbox, opened);
    return opened;
  }
}

/** What a sandbox has sent is shown on terminals. */
function plain(text: string): string {
  return text.slice(0, 500).replaceAll(/[^ -~]/g, '?');
}

function lastSeq(path: string): number | undefined {
  const last = linesOf(path).at(-1);
  return last === undefined ? undefined : Number(/^\{"seq":(\d+),/.exec(last)?.[1]) || undefined;
}

function linesOf(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').split('\n').filter(Boolean);
  } catch {
    return [];
  }
}

function sizeOf(path: string): number {
  try {
    return statSync(path).size;
  } catch {
    return 0;
  }
}
