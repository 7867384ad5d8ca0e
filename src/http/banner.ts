import type { EngineInfo } from '../index.js';

export interface BannerInput {
  /** `http://127.0.0.1:8888`, as a client on this machine would write it. */
  readonly url: string;
  readonly token: string | undefined;
  /** Whether one is needed: it may also be a key, or one that was issued. */
  readonly isOpen: boolean;
  /** Whether the token itself may be shown: a person reads it, not a log collector. */
  readonly showToken: boolean;
  readonly image: string;
  readonly imagePresent: boolean | undefined;
  /** Or the sentence that says why there is none. */
  readonly engine: EngineInfo | string;
}

/** What `npm start` tells a person: where it is, what it runs on, and two lines to try. */
export function formatBanner(input: BannerInput): string {
  const { url, image, imagePresent, engine } = input;
  const rows: [string, string][] = [
    ['address', url],
    ['token', tokenText(input)],
    ['image', imagePresent === false ? `${image} (the engine does not have it: npm run setup)` : image],
    ['engine', typeof engine === 'string' ? `not there yet: ${engine}` : engineText(engine)],
    ['docs', `${url}/docs`],
  ];
  const table = rows.map(([name, text]) => `  ${name.padEnd(8)} ${text}`).join('\n');
  return `\nSandyard is running.\n\n${table}\n\n${tryIt(url, authorization(input))}\n\n`;
}

function tryIt(url: string, auth: string): string {
  const json = `-H 'Content-Type: application/json'`;
  const sandboxes = `${url}/api/sandboxes`;
  return [
    'Try it:',
    `  id=$(curl -s ${sandboxes}${auth} ${json} -d '{"project_name":"test"}' | sed 's/^{"id":"\\([a-z0-9]*\\)".*/\\1/')`,
    `  curl -s ${sandboxes}/$id/execute${auth} ${json} -d '{"command":["node","--version"]}'`,
    `  curl -s -X DELETE ${sandboxes}/$id${auth}`,
  ].join('\n');
}

function authorization({ token, showToken, isOpen }: BannerInput): string {
  if (token === undefined) return isOpen ? '' : ' -H "Authorization: Bearer $TOKEN"';
  return showToken ? ` -H 'Authorization: Bearer ${token}'` : ' -H "Authorization: Bearer $SANDBOX_TOKEN"';
}

function tokenText({ token, showToken, isOpen }: BannerInput): string {
  if (token === undefined) {
    return isOpen ? 'none (only this machine can connect)' : 'needed: a key, or one that "sandyard token" issues';
  }
  return showToken ? token : 'set (by SANDBOX_TOKEN or SANDBOX_TOKEN_FILE)';
}

function engineText({ address, version, apiVersion, runtimes }: EngineInfo): string {
  return `Docker ${version} (API ${apiVersion}) at ${address}, runtimes: ${runtimes.join(', ')}`;
}
