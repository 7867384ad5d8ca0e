import { z } from 'zod';

import type { EgressEndpoint } from '../engine/engine.js';
import { isSandyardError, SandyardError } from '../errors.js';
import type { SandboxFiles } from '../files/files.js';
import { secretsPath, type SecretEntry, type SecretsFile } from '../proxy/secrets.js';
import { issueCertificate } from './certificates.js';
import { STATE_PATH } from './program.js';
import type { PlannedSecret } from './secrets.js';

/*
 * The only place where the values of secrets are kept: a file for each sandbox on the volume of the proxy, which nobody but
 * the proxy's user can read there.
 */

const ONLY_OWNER = 0o600;
/** More than sixteen secrets of the longest have, with ten hosts each. */
const MAX_BYTES = 1024 * 1024;
/** Others change it at the same time seldom. */
const TRIES = 8;

const secretsFileSchema = z.object({
  sandbox: z.string(),
  secrets: z.array(
    z.object({
      name: z.string(),
      placeholder: z.string(),
      value: z.string(),
      hosts: z.array(z.string()),
      interceptTls: z.boolean(),
    }),
  ),
  shown: z.object({ certificate: z.string(), key: z.string() }).nullable(),
}) satisfies z.ZodType<SecretsFile>;

interface Written {
  readonly id: string;
  readonly endpoint: EgressEndpoint;
  readonly secrets: readonly PlannedSecret[];
  readonly lifetimeMs: number;
}

/** Gives, in PEM, the authority that the sandbox has to trust; `undefined` where no TLS is to be opened. */
export async function writeSecrets(
  files: SandboxFiles,
  { id, endpoint: { address }, secrets, lifetimeMs }: Written,
): Promise<string | undefined> {
  if (secrets.length === 0) {
    await removeSecrets(files, address); // of one that had the address before
    return undefined;
  }
  const hosts = secrets.flatMap((secret) => (secret.interceptTls ? secret.hosts : []));
  const names = [...new Set(hosts.map((host) => host.replace(/:\d+$/, '')))];
  const issued = names.length === 0 ? undefined : issueCertificate(names, { id, lifetimeMs });
  const entries = secrets.map(({ value, ...rest }): SecretEntry => ({ ...rest, value: value.reveal() }));
  const shown = issued === undefined ? null : { certificate: issued.certificate, key: issued.key };
  await write(files, { sandbox: id, secrets: entries, shown }, { address });
  return issued?.authority;
}

/** Those that a sandbox has now. */
export async function secretsAt(
  files: SandboxFiles,
  { id, address }: { id: string; address: string },
): Promise<readonly SecretEntry[]> {
  return (await read(files, { id, address })).secrets;
}

/** Changes them in one step, whoever else does at the same time. */
export async function changeSecrets(
  files: SandboxFiles,
  { id, address }: { id: string; address: string },
  change: (secrets: readonly SecretEntry[]) => readonly SecretEntry[],
): Promise<void> {
  for (let tries = 0; tries < TRIES; tries += 1) {
    // What is changed after this is not written over.
    const etag = await tagOf(files, address);
    const found = await read(files, { id, address });
    const secrets = change(found.secrets);
    if (etag === undefined) return;
    try {
      await write(files, { ...found, secrets }, { address, etag });
      return;
    } catch (error) {
      if (!isSandyardError(error, 'precondition_failed')) throw error;
    }
  }
  throw new SandyardError('engine_error', `The secrets of the sandbox ${id} are changed all the time.`, {
    hint: 'Try again when others have done with them.',
  });
}

export async function removeSecrets(files: SandboxFiles, address: string): Promise<void> {
  await files.remove(secretsPath(STATE_PATH, address)).catch(unlessMissing);
}

async function tagOf(files: SandboxFiles, address: string): Promise<string | undefined> {
  const info = await files.stat(secretsPath(STATE_PATH, address)).catch(unlessMissing);
  return info?.etag ?? undefined;
}

async function read(files: SandboxFiles, { id, address }: { id: string; address: string }): Promise<SecretsFile> {
  const text = await files.readText(secretsPath(STATE_PATH, address), { maxBytes: MAX_BYTES }).catch(unlessMissing);
  const parsed = text === undefined ? undefined : secretsFileSchema.safeParse(JSON.parse(text));
  if (parsed?.success === true && parsed.data.sandbox === id) return parsed.data;
  return { sandbox: id, secrets: [], shown: null };
}

async function write(
  files: SandboxFiles,
  content: SecretsFile,
  { address, etag }: { address: string; etag?: string },
): Promise<void> {
  const options = { mode: ONLY_OWNER, ifMatch: etag };
  await files.write(secretsPath(STATE_PATH, address), JSON.stringify(content), options);
}

function unlessMissing(error: unknown): undefined {
  if (!isSandyardError(error, 'file_not_found')) throw error;
}
