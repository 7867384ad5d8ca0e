import type { Request, RequestHandler, Response } from 'express';

import type { Access } from '../access/access.js';
import { confinedTo, hasScope, type Caller } from '../access/caller.js';
import { isSandyardError, SandyardError } from '../errors.js';
import type { SandboxManager } from '../index.js';
import { scopeOf } from './access-table.js';
import { enterCaller } from './callers.js';
import type { TerminalTickets } from './terminal-tickets.js';

/*
 * Who asks, and whether they may. First who: by a key or a token in the header `Authorization`, by the ticket of a terminal, or by
 * the link to a file; what is refused there is 401. Then whether they may do what the route does, to that sandbox: 403 for what
 * they may do to none, 404 for what isn't theirs, as if it were not there.
 */

const REALM = 'Bearer realm="sandyard"';
/** No key or token is longer; what is isn't even hashed. */
const MAX_CREDENTIAL = 8192;
const FILE_PATH = /^\/api\/sandboxes\/([a-z0-9]{1,64})\/files\/?$/;

export interface Doorkeeper {
  readonly access: Access;
  readonly tickets: TerminalTickets;
  /** Called for each that is refused, before it is told; throws where there are too many. */
  readonly refusedOne: (request: Request, response: Response) => Promise<void>;
}

/** Finds out who asks. Throws `unauthorized`. */
export function authenticate({ access, tickets, refusedOne }: Doorkeeper): RequestHandler {
  return async (request, response, next) => {
    if (access.isOpen) {
      enterCaller(request, access.anybody);
      next();
      return;
    }
    try {
      enterCaller(request, await identify(request, { access, tickets }));
    } catch (error) {
      if (!isSandyardError(error, 'unauthorized')) throw error;
      await refusedOne(request, response);
      challenge(response, error);
      throw error;
    }
    next();
  };
}

async function identify(request: Request, { access, tickets }: Omit<Doorkeeper, 'refusedOne'>): Promise<Caller> {
  const given = bearerToken(request);
  if (given !== undefined) {
    if (given.length <= MAX_CREDENTIAL) return access.identify(given);
    throw new SandyardError('unauthorized', 'The token is not valid.', {
      details: { refused: 'token', reason: 'length' },
    });
  }
  const caller = tickets.admits(request) ?? (await readLink(request, access));
  if (caller !== undefined) return caller;
  throw new SandyardError('unauthorized', 'The request carries no token.', {
    hint: 'Send the header "Authorization: Bearer TOKEN": the value of SANDBOX_TOKEN, a key, or a token that was issued to you.',
  });
}

/** Who has the link that the request bears, if it bears one, and nothing else than that link allows. Throws `unauthorized`. */
async function readLink(request: Request, { tokens }: Access): Promise<Caller | undefined> {
  const { query, method, path } = request;
  const sandbox = FILE_PATH.exec(path)?.[1];
  if (sandbox === undefined || query['link'] === undefined) return undefined;
  const { link, ...others } = query;
  if (typeof link !== 'string') throw notThatLink('query');
  const caller = await tokens.readLink(link);
  const isMethod = caller.file?.method === (method === 'HEAD' ? 'GET' : method);
  const isFile = caller.sandbox === sandbox && others['path'] === caller.file?.path;
  if (!isMethod) throw notThatLink('method');
  if (!isFile || Object.keys(others).length > 1) throw notThatLink('path');
  return caller;
}

function notThatLink(reason: string): SandyardError {
  return new SandyardError('unauthorized', 'The link is not for this request.', {
    hint: 'A link is for one file and one method; use it as it was issued, and add nothing.',
    details: { refused: 'link', reason },
  });
}

export interface Attempt {
  readonly operation: { readonly operationId: string };
  readonly caller: Caller;
  /** The sandbox that the path names; empty where it names none. */
  readonly id: string;
  readonly manager: SandboxManager;
  readonly access: Access;
  readonly response: Response;
  readonly signal: AbortSignal;
}

/** Throws `forbidden`, `sandbox_not_found`, and `unauthorized` for a token that was used. */
export async function authorize(attempt: Attempt): Promise<void> {
  const { operation, caller, id, manager, access, response, signal } = attempt;
  const scope = scopeOf(operation.operationId);
  if (!hasScope(caller, scope) || !isForFile(caller, operation.operationId)) {
    response.set('WWW-Authenticate', `${REALM}, error="insufficient_scope", scope="${scope}"`);
    throw new SandyardError('forbidden', `This needs the scope "${scope}", which the token does not have.`, {
      hint: `It has ${caller.scopes.map((one) => `"${one}"`).join(', ')}. Ask for a token with "${scope}".`,
      details: { refused: 'scope', scope },
    });
  }
  if (caller.sandbox !== undefined && caller.sandbox !== id) throw notThatSandbox(id, caller.sandbox);
  const tenant = confinedTo(caller);
  if (id !== '' && tenant !== undefined) await manager.get(id, { signal, tenant });
  try {
    await access.spend(caller);
  } catch (error) {
    if (isSandyardError(error, 'unauthorized')) challenge(response, error);
    throw error;
  }
}

/** Who has no more than a link to a file comes to that file only, whatever else its scope is good for. */
function isForFile({ file }: Caller, operationId: string): boolean {
  return file === undefined || operationId === (file.method === 'GET' ? 'readFile' : 'writeFile');
}

function notThatSandbox(id: string, sandbox: string): SandyardError {
  const details = { refused: 'owner' };
  if (id === '') {
    return new SandyardError('forbidden', `The token is for the sandbox ${sandbox} only.`, {
      hint: `Use it for /api/sandboxes/${sandbox} and what is below that.`,
      details: { refused: 'scope' },
    });
  }
  return new SandyardError('sandbox_not_found', `There is no sandbox ${JSON.stringify(id)}.`, {
    hint: 'It may have been destroyed or have expired; list the sandboxes to see which there are.',
    details,
  });
}

/** As RFC 6750, section 3, has it: what is wrong only where something was given. */
function challenge(response: Response, error: SandyardError): void {
  const wrong = `, error="invalid_token", error_description="${error.message.replaceAll(/["\\]/g, '')}"`;
  response.set('WWW-Authenticate', `${REALM}${error.details['refused'] === undefined ? '' : wrong}`);
}

function bearerToken(request: Request): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(request.headers.authorization ?? '')?.[1];
}
