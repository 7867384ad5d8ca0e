import { z } from 'zod';

import { SCOPES } from '../access-settings.js';
import type { SandboxManager } from '../index.js';
import { fields } from '../schemas.js';
import { time } from '../wire/answers.js';
import { operation, type Operation } from './operation.js';
import { defined, MAX_SECONDS, toMs } from './request-fields.js';

export const expiresSeconds = z
  .number()
  .min(1, 'must be at least 1 second')
  .max(MAX_SECONDS, 'must be a year at most')
  .transform(toMs);

export const tokenBody = z
  .strictObject({
    owner: fields.tenant.describe("Whose sandboxes it is for; the sandbox's owner, or you, unless given.").optional(),
    scopes: z.array(z.enum(SCOPES)).min(1).max(SCOPES.length).describe('What it is good for.'),
    sandbox: fields.id.describe('The only sandbox that it is good for.').optional(),
    expires: expiresSeconds.describe('Seconds until it is no longer good; 1800 unless given.').optional(),
    single_use: z.boolean().describe('Whether it is good for one request only; false unless given.').optional(),
  })
  .describe('A token to issue.');

export const tokenAnswer = z
  .object({
    token: z.string().describe('For the header "Authorization: Bearer TOKEN".'),
    token_id: z.string().describe('By which the log calls it.'),
    owner: fields.tenant,
    scopes: z.array(z.enum(SCOPES)),
    sandbox: fields.id.nullable(),
    single_use: z.boolean(),
    expires_at: time,
  })
  .describe('A token that was issued.');

/** Whose a sandbox is among those that use the service. */
export async function ownerOf(
  id: string,
  { manager, signal }: { manager: SandboxManager; signal: AbortSignal },
): Promise<string> {
  const { tenant, owner } = await manager.inspect(id, { signal });
  return tenant ?? owner;
}

export const tokenOperations: readonly Operation[] = [
  operation({
    method: 'post',
    path: '/api/tokens',
    operationId: 'issueToken',
    tag: 'Service',
    summary: 'Issue a token',
    description:
      'A token can not be taken back: it is good until it expires. One for a single use is good for the first request that ' +
      'its scopes and its sandbox allow, however that is answered, and for no other, also after a restart of the service.',
    body: tokenBody,
    answers: { 201: { description: 'The token.', content: { 'application/json': tokenAnswer } } },
    errors: ['limit_exceeded', 'sandbox_not_found'],
    async handle({ manager, access, caller, body, response, signal }) {
      const { scopes, sandbox, expires: ttlMs, single_use: singleUse = false } = body;
      // A token for what isn't there, or isn't its owner's, would be refused for ever, and its holder not told why.
      if (sandbox !== undefined) await manager.get(sandbox, { signal, ...defined({ tenant: body.owner }) });
      const owner = body.owner ?? (sandbox === undefined ? caller.owner : await ownerOf(sandbox, { manager, signal }));
      const { token, id, expiresAt } = await access.tokens.issue({
        owner,
        scopes,
        singleUse,
        ...defined({ sandbox, ttlMs }),
      });
      response.status(201).json({
        token,
        token_id: id,
        owner,
        scopes: [...new Set(scopes)],
        sandbox: sandbox ?? null,
        single_use: singleUse,
        expires_at: expiresAt.toISOString(),
      });
    },
  }),
];
