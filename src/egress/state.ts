import { z } from 'zod';

import type { EgressSettings } from '../egress-settings.js';
import type { EgressPolicy } from '../egress-schemas.js';
import type { EgressEndpoint } from '../engine/engine.js';
import { isSandyardError } from '../errors.js';
import type { SandboxFiles } from '../files/files.js';
import { LOGS, logPaths, POLICIES, policyPath, type LogEntry, type PolicyFile } from '../proxy/files.js';
import { SECRETS } from '../proxy/secrets.js';
import { removeSecrets } from './secret-files.js';
import { STATE_PATH } from './program.js';

/* The files by which managers tell the proxy what sandboxes may do, and it tells them what sandboxes did. */

/** More than any of them has. */
const MAX_BYTES = 1024 * 1024;

const policySchema = z.object({
  sandbox: z.string(),
  proxy: z.string(),
  allow: z.array(z.string()),
  asked: z.array(z.string()),
  learn: z.boolean(),
  maxConnections: z.number(),
  maxBytes: z.number().nullable(),
  bytesPerSecond: z.number().nullable(),
}) satisfies z.ZodType<PolicyFile>;

const text = z.string().nullable();
const entrySchema = z.object({
  seq: z.number(),
  at: z.string(),
  method: z.string(),
  host: z.string(),
  port: z.number(),
  decision: z.enum(['allowed', 'denied']),
  reason: text,
  rule: text,
  address: text,
  detail: text,
});

interface Written {
  readonly id: string;
  readonly endpoint: EgressEndpoint;
  readonly policy: EgressPolicy;
  readonly settings: EgressSettings;
}

/** It is in force from the next connection on, and for those that are open in a moment. */
export async function writePolicy(files: SandboxFiles, { id, endpoint, policy, settings }: Written): Promise<void> {
  const { allow: asked, ...rest } = policy;
  // What is to be learnt from may reach all that it could be allowed.
  const allow = policy.learn ? [...new Set([...asked, ...settings.allowedDomains])] : asked;
  const file: PolicyFile = { sandbox: id, proxy: endpoint.proxy.address, ...rest, asked, allow };
  await files.write(policyPath(STATE_PATH, endpoint.address), JSON.stringify(file));
}

/** The policy of whoever has the address; `undefined` where there is none. */
export async function policyOf(files: SandboxFiles, address: string): Promise<PolicyFile | undefined> {
  const found = await readIfThere(files, policyPath(STATE_PATH, address));
  const parsed = policySchema.safeParse(parseJson(found));
  return parsed.success ? parsed.data : undefined;
}

/** The oldest first; what is no entry is left out. */
export async function readLog(files: SandboxFiles, id: string): Promise<LogEntry[]> {
  const { newer, older } = logPaths(STATE_PATH, id);
  // The newer one first: when it becomes the older one meanwhile, entries come twice rather than not at all.
  const texts = [await readIfThere(files, newer), await readIfThere(files, older)].toReversed();
  const entries = texts
    .flatMap((found) => found.split('\n'))
    .map((line) => entrySchema.safeParse(parseJson(line)))
    .flatMap(({ success, data }) => (success ? [data as LogEntry] : []));
  return [...new Map(entries.map((entry) => [entry.seq, entry])).values()].toSorted((a, b) => a.seq - b.seq);
}

/** The hosts that it has connected to while it was learnt from. */
export async function readLearnt(files: SandboxFiles, id: string): Promise<string[]> {
  const found = await readIfThere(files, logPaths(STATE_PATH, id).learnt);
  return [...new Set(found.split('\n').filter(Boolean))].toSorted();
}

/** All that is kept of a sandbox. */
export async function removeState(
  files: SandboxFiles,
  { id, address }: { id: string; address: string },
): Promise<void> {
  const kept = await policyOf(files, address);
  // In this order: what is kept of secrets is found by the policy.
  if (kept?.sandbox === id) await removeSecrets(files, address);
  const policy = kept?.sandbox === id ? [policyPath(STATE_PATH, address)] : [];
  for (const path of [...policy, ...Object.values(logPaths(STATE_PATH, id))]) {
    await files.remove(path).catch(unlessMissing);
  }
}

/**
 * What is kept of sandboxes that are gone. Which are there is asked for afterwards: a network is there before its policy
 * is, so that of one that is being made now is not taken for a stale one.
 */
export async function removeStale(
  files: SandboxFiles,
  connected: () => Promise<ReadonlySet<string | undefined>>,
): Promise<void> {
  const kept = await files.list(`${STATE_PATH}/${POLICIES}`);
  const addresses = kept.map(({ name }) => name.replace(/\.json$/, ''));
  const policies = await Promise.all(
    addresses.map(async (address) => ({ address, policy: await policyOf(files, address) })),
  );
  const there = await connected();
  for (const { address, policy } of policies) {
    if (policy !== undefined && !there.has(policy.sandbox)) await removeState(files, { id: policy.sandbox, address });
  }
}

/** Both are made by whoever is first: the proxy or a manager. */
export async function makeFolders(files: SandboxFiles): Promise<void> {
  for (const name of [POLICIES, LOGS]) await files.makeDir(`${STATE_PATH}/${name}`);
  await files.makeDir(`${STATE_PATH}/${SECRETS}`, { mode: 0o700 });
}

async function readIfThere(files: SandboxFiles, path: string): Promise<string> {
  return (await files.readText(path, { maxBytes: MAX_BYTES }).catch(unlessMissing)) ?? '';
}

function unlessMissing(error: unknown): undefined {
  if (!isSandyardError(error, 'file_not_found')) throw error;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
