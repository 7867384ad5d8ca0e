import { createSecretKey, type KeyObject } from 'node:crypto';
import { errors, jwtVerify, SignJWT, type JWTPayload } from 'jose';
import { nanoid } from 'nanoid';
import { z } from 'zod';

import { SCOPES, type Scope, type TokenSettings } from '../access-settings.js';
import { SandyardError } from '../errors.js';
import { fields, parseInput } from '../schemas.js';
import type { Caller, FileAccess } from './caller.js';

/*
 * Tokens that the service, or whoever has its secret, signs: JWTs (RFC 7519) by HS256 and nothing else. Two kinds, which can't
 * stand for one another: bearer tokens, and links to one file. What isn't exactly as we make it is refused, what it says that we
 * don't know among it: that may be a restriction.
 */

const ALGORITHM = 'HS256';
const ISSUER = 'sandyard';
const BEARER = 'sandyard+jwt';
const LINK = 'sandyard-link+jwt';
/** Longer ones than can come from here aren't even looked at. */
const MAX_LENGTH = 8192;

const DEFAULT_TOKEN_MS = 30 * 60_000;
const MIN_TOKEN_MS = 1000;

const scopeList = z
  .string()
  .transform((text) => text.split(' '))
  .pipe(z.array(z.enum(SCOPES)).min(1));

const common = {
  iss: z.literal(ISSUER),
  aud: z.string(),
  sub: fields.tenant,
  iat: z.int(),
  nbf: z.int().optional(),
  exp: z.int(),
  jti: z.string().regex(/^[\w-]{8,64}$/),
};
const bearerClaims = z.strictObject({
  ...common,
  scope: scopeList,
  sandbox: fields.id.optional(),
  single_use: z.boolean().optional(),
});
const linkClaims = z.strictObject({
  ...common,
  sandbox: fields.id,
  method: z.enum(['GET', 'PUT']),
  path: fields.path,
});

const whatFor = z.object({
  owner: fields.tenant,
  scopes: z.array(z.enum(SCOPES)).min(1),
  sandbox: fields.id.optional(),
});

export interface TokenRequest {
  readonly owner: string;
  readonly scopes: readonly Scope[];
  /** The only sandbox that it is to be good for. Default: all of the owner's. */
  readonly sandbox?: string | undefined;
  /** From when on it is no longer good, in milliseconds from now. Default: half an hour. */
  readonly ttlMs?: number | undefined;
  /** Whether it is good for one request only. */
  readonly singleUse?: boolean | undefined;
}

export interface IssuedToken {
  readonly token: string;
  readonly id: string;
  readonly expiresAt: Date;
}

export interface LinkRequest extends FileAccess {
  readonly owner: string;
  readonly sandbox: string;
  readonly ttlMs?: number | undefined;
}

/** Issues and reads the tokens of one service. */
export class Tokens {
  readonly #key: KeyObject | undefined;
  readonly #audience: string;
  readonly #settings: TokenSettings;

  /** `service`: the owner that the service has its sandboxes by; a token is for the services of one owner. */
  constructor(settings: TokenSettings, service: string) {
    this.#settings = settings;
    this.#key = settings.tokenSecret && createSecretKey(settings.tokenSecret);
    this.#audience = `sandyard:${service}`;
  }

  get enabled(): boolean {
    return this.#key !== undefined;
  }

  /** Throws `validation_failed`, `forbidden` where the service isn't set up for that, `limit_exceeded` for one that lasts too long. */
  async issue(request: TokenRequest): Promise<IssuedToken> {
    const { owner, scopes, sandbox, ttlMs, singleUse = false } = request;
    parseInput(whatFor, { owner, scopes, sandbox }, 'token');
    if (singleUse && this.#settings.stateDirectory === undefined) throw noState();
    const claims = {
      scope: [...new Set(scopes)].join(' '),
      ...(sandbox !== undefined && { sandbox }),
      ...(singleUse && { single_use: true }),
    };
    return this.#sign(claims, { owner, ttlMs, type: BEARER });
  }

  async issueLink({ owner, sandbox, method, path, ttlMs }: LinkRequest): Promise<IssuedToken> {
    return this.#sign({ sandbox, method, path }, { owner, ttlMs, type: LINK });
  }

  /** Whose it is. Throws `unauthorized`, with the reason in its details. */
  async read(token: string): Promise<Caller> {
    const claims = await this.#verify(token, { type: BEARER, schema: bearerClaims });
    const { sub: owner, scope: scopes, sandbox, jti: id, exp, single_use: once } = claims;
    if (once === true && this.#settings.stateDirectory === undefined) {
      throw refused('no_state', 'Tokens for a single use are not taken: the service has no SANDBOX_STATE_DIR.');
    }
    const spent = once === true ? { id, expiresAt: new Date(exp * 1000) } : undefined;
    return { owner, scopes, sandbox, via: 'token', name: id, once: spent };
  }

  async readLink(token: string): Promise<Caller> {
    const claims = await this.#verify(token, { type: LINK, schema: linkClaims });
    const { sub: owner, sandbox, method, path, jti: name } = claims;
    return { owner, scopes: ['files'], sandbox, via: 'link', name, file: { method, path } };
  }

  async #sign(
    claims: JWTPayload,
    { owner, ttlMs = DEFAULT_TOKEN_MS, type }: { owner: string; ttlMs?: number | undefined; type: string },
  ): Promise<IssuedToken> {
    if (this.#key === undefined) throw noSecret();
    const { maxTokenMs } = this.#settings;
    if (ttlMs < MIN_TOKEN_MS || ttlMs > maxTokenMs) throw outOfBounds(ttlMs, maxTokenMs);
    const id = nanoid();
    const issuedAt = Math.floor(Date.now() / 1000);
    const expiresAt = issuedAt + Math.floor(ttlMs / 1000);
    const token = await new SignJWT(claims)
      .setProtectedHeader({ alg: ALGORITHM, typ: type })
      .setIssuer(ISSUER)
      .setAudience(this.#audience)
      .setSubject(owner)
      .setIssuedAt(issuedAt)
      .setExpirationTime(expiresAt)
      .setJti(id)
      .sign(this.#key);
    return { token, id, expiresAt: new Date(expiresAt * 1000) };
  }

  async #verify<Schema extends z.ZodType<{ iat: number; exp: number }>>(
    token: string,
    { type, schema }: { type: string; schema: Schema },
  ): Promise<z.output<Schema>> {
    if (this.#key === undefined || token.length > MAX_LENGTH) throw refused('malformed', 'The token is not valid.');
    let payload: JWTPayload;
    try {
      ({ payload } = await jwtVerify(token, this.#key, {
        algorithms: [ALGORITHM],
        typ: type,
        issuer: ISSUER,
        audience: this.#audience,
      }));
    } catch (error) {
      throw toRefusal(error);
    }
    const claims = schema.safeParse(payload);
    if (!claims.success) throw refused('claims', 'The token is not valid.');
    const { iat, exp } = claims.data;
    const lastsMs = (exp - iat) * 1000;
    if (lastsMs > this.#settings.maxTokenMs || iat > Date.now() / 1000 + 60) {
      throw refused('lifetime', 'The token lasts longer than one may.');
    }
    return claims.data;
  }
}

function toRefusal(error: unknown): SandyardError {
  if (error instanceof errors.JWTExpired) return refused('expired', 'The token has expired.');
  if (error instanceof errors.JWTClaimValidationFailed) {
    return error.claim === 'nbf'
      ? refused('not_yet_valid', 'The token is not valid yet.')
      : refused('claims', 'The token is not valid.');
  }
  if (error instanceof errors.JOSEAlgNotAllowed) return refused('algorithm', 'The token is not valid.');
  const forged = error instanceof errors.JWSSignatureVerificationFailed;
  return refused(forged ? 'signature' : 'malformed', 'The token is not valid.');
}

/** `reason` is for the log; what the message says a client may know. */
export function refused(reason: string, message: string): SandyardError {
  return new SandyardError('unauthorized', message, {
    hint: 'Ask whoever gave it to you for a new one, and send that in the header "Authorization: Bearer TOKEN".',
    details: { refused: 'token', reason },
  });
}

function noSecret(): SandyardError {
  return new SandyardError('forbidden', 'Tokens and links can not be issued: there is no secret to sign them with.', {
    hint: 'Set SANDBOX_TOKEN_SECRET or SANDBOX_TOKEN_SECRET_FILE, such as to: openssl rand -hex 32',
    details: { refused: 'configuration' },
  });
}

function noState(): SandyardError {
  const message =
    'A token for a single use can not be issued: there is no place to note, over a restart, that it was used.';
  return new SandyardError('forbidden', message, {
    hint: 'Set SANDBOX_STATE_DIR to a directory that the service can write to.',
    details: { refused: 'configuration' },
  });
}

function outOfBounds(ttlMs: number, maxMs: number): SandyardError {
  const bounds = `It may last from 1 s to ${Math.floor(maxMs / 1000)} s.`;
  return new SandyardError('limit_exceeded', `The token is to last ${Math.round(ttlMs / 1000)} s. ${bounds}`, {
    hint: 'Ask for less, or have the operator raise SANDBOX_TOKEN_MAX_AGE.',
    issues: [{ path: ['expires'], message: bounds }],
  });
}
