import { z } from 'zod';

import { egressSchema, type EgressOptions, type EgressPolicy } from '../egress-schemas.js';
import type { CallOptions, EgressEndpoint } from '../engine/engine.js';
import { SandyardError } from '../errors.js';
import { readHost } from '../proxy/hosts.js';
import type { LogEntry } from '../proxy/files.js';
import type { SandboxRecord } from '../record/record.js';
import { fields, parseInput } from '../schemas.js';
import { checkCeiling } from './ceiling.js';
import type { Egress } from './egress.js';
import type { ProxyContainer } from './proxy-container.js';
import { policyOf, readLearnt, readLog, writePolicy } from './state.js';

/** What a sandbox may reach now, and what it was learnt to need. */
export interface EgressInfo extends EgressPolicy {
  /** The hosts that it has connected to while `learn` was on, as rules for `allow`; sorted. */
  readonly learnt: readonly string[];
}

/** Something that the proxy has decided. */
export interface EgressLogEntry extends Omit<LogEntry, 'at'> {
  readonly at: Date;
}

export interface EgressLog {
  /** The oldest first. */
  readonly entries: readonly EgressLogEntry[];
  /** Pass it on as `after` to have what comes then. */
  readonly lastSeq: number;
  /** Whether entries after `after` are no longer kept: some 256 KiB are, of each sandbox. */
  readonly lost: boolean;
}

/** What would be decided on a URL, and why. */
export interface EgressDecision {
  readonly allowed: boolean;
  readonly host: string;
  readonly port: number;
  /** The rule that allows it by its name. */
  readonly rule: string | null;
  /** What its name leads to; only where it is allowed. */
  readonly address: string | null;
  /** Why it is refused, for programs and for people. */
  readonly reason: string | null;
  readonly detail: string | null;
}

const decisionSchema = z.object({
  allowed: z.boolean(),
  host: z.string(),
  port: z.number(),
  rule: z.string().nullable().default(null),
  address: z.string().nullable().default(null),
  reason: z.string().nullable().default(null),
  detail: z.string().nullable().default(null),
});

/** What one sandbox reaches by its proxy. All throw `wrong_state` for one that was not made with `network: { egress }`. */
export class SandboxEgress {
  readonly #egress: Egress;
  readonly #record: SandboxRecord;

  /** @internal Made by a sandbox. */
  constructor(egress: Egress, record: SandboxRecord) {
    this.#egress = egress;
    this.#record = record;
  }

  /** What is in force now. */
  async get(_options: CallOptions = {}): Promise<EgressInfo> {
    return this.#ask(async (proxy, endpoint) => ({
      ...(await this.#policy(proxy, endpoint)),
      learnt: await readLearnt(proxy.files, this.#record.id),
    }));
  }

  /**
   * Changes what it may reach, from the next connection on; what is open and no longer allowed is cut within a second.
   * What is left out stays as it is. Throws `limit_exceeded` where the operator allows less.
   */
  async set(options: EgressOptions, _options: CallOptions = {}): Promise<EgressInfo> {
    const given = parseInput(egressSchema.partial(), options, 'egress options');
    return this.#ask(async (proxy, endpoint) => {
      const { settings } = this.#egress;
      const known = await this.#policy(proxy, endpoint);
      const asked = Object.fromEntries(Object.keys(options).map((key) => [key, given[key as keyof typeof given]]));
      const policy: EgressPolicy = { ...known, ...asked };
      checkCeiling(policy, settings);
      await writePolicy(proxy.files, { id: this.#record.id, endpoint, policy, settings });
      return { ...policy, learnt: await readLearnt(proxy.files, this.#record.id) };
    });
  }

  /** What was allowed and refused, and why, after the entry `after`, or from the first that is kept. */
  async log({ after = 0 }: CallOptions & { after?: number | undefined } = {}): Promise<EgressLog> {
    const from = parseInput(fields.seq, after, 'after');
    const all = await this.#ask((proxy) => readLog(proxy.files, this.#record.id));
    const found = all.filter(({ seq }) => seq > from);
    const entries = found.map((entry) => ({ ...entry, at: new Date(entry.at) }));
    const first = all[0]?.seq ?? 1;
    return { entries, lastSeq: entries.at(-1)?.seq ?? from, lost: first > from + 1 };
  }

  /** Explains what would be decided on a URL now. Nothing is connected to; its name is looked up where it is allowed. */
  async check(url: string, { signal }: CallOptions = {}): Promise<EgressDecision> {
    const target = parseTarget(url);
    return this.#ask(async (proxy, endpoint) => {
      const answer = await proxy.check(endpoint.address, target, signal);
      return decisionSchema.parse(JSON.parse(answer));
    });
  }

  async #policy({ files }: ProxyContainer, { address }: EgressEndpoint): Promise<EgressPolicy> {
    const found = await policyOf(files, address);
    const mine = found?.sandbox === this.#record.id ? found : undefined;
    // Without one nothing is allowed.
    const { asked = [], learn, maxBytes, bytesPerSecond, maxConnections } = mine ?? {};
    return egressSchema.parse({ allow: [...asked], learn, maxBytes, bytesPerSecond, maxConnections });
  }

  async #ask<Answer>(act: (proxy: ProxyContainer, endpoint: EgressEndpoint) => Promise<Answer>): Promise<Answer> {
    const { id, network } = this.#record;
    const answer =
      typeof network === 'string'
        ? undefined
        : await this.#egress.withProxy(id, async (...there) => [await act(...there)] as const);
    if (answer !== undefined) return answer[0];
    throw new SandyardError('wrong_state', `The sandbox ${id} has no egress.`, {
      hint: "Only one that is made with network: { egress: { allow: […] } } has; that can't be changed later.",
    });
  }
}

function parseTarget(url: string): { host: string; port: number } {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  const ports: Readonly<Record<string, number>> = { 'http:': 80, 'https:': 443 };
  const standard = parsed && ports[parsed.protocol];
  if (parsed === undefined || standard === undefined) {
    throw new SandyardError(
      'validation_failed',
      `${JSON.stringify(url.slice(0, 200))} is no URL that a sandbox could reach.`,
      {
        hint: 'Write it whole, such as https://pypi.org/simple/.',
      },
    );
  }
  const host = readHost(parsed.hostname);
  return { host: 'name' in host ? host.name : parsed.hostname, port: Number(parsed.port) || standard };
}
