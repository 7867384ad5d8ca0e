import { rootCertificates } from 'node:tls';

import type { SandboxFiles } from '../files/files.js';

/*
 * What a sandbox trusts whose secrets go over TLS: what its image does, and the authority that was made for it alone. It is
 * in files of its own, and what is in the image stays as it is.
 */

const FOLDER = '/home/sandbox/.sandyard';
const OWN = `${FOLDER}/authority.pem`;
const ALL = `${FOLDER}/authorities.pem`;
const READ_ONLY = 0o444;
const MAX_BYTES = 4 * 1024 * 1024;

/** Where images have what they trust: Debian, Ubuntu and Alpine; Fedora and its relatives; others. */
const IN_IMAGES = ['/etc/ssl/certs/ca-certificates.crt', '/etc/pki/tls/certs/ca-bundle.crt', '/etc/ssl/cert.pem'];

/**
 * By these programs find it: OpenSSL, and with it Python, Ruby and Go; curl; git; pip and Python's requests. Node.js has
 * authorities of its own, and reads these in addition, at each start: so it gets no more than the one.
 */
export function trustVariables(): Record<string, string> {
  const names = ['SSL_CERT_FILE', 'CURL_CA_BUNDLE', 'GIT_SSL_CAINFO', 'PIP_CERT', 'REQUESTS_CA_BUNDLE'];
  return { ...Object.fromEntries(names.map((name) => [name, ALL])), NODE_EXTRA_CA_CERTS: OWN };
}

export async function installTrust(files: SandboxFiles, authority: string): Promise<void> {
  const known = await trustedIn(files);
  await files.write(OWN, authority, { mode: READ_ONLY });
  await files.write(ALL, `${known.trimEnd()}\n${authority}`, { mode: READ_ONLY });
}

/** Of an image that has none it is what Node.js has. */
async function trustedIn(files: SandboxFiles): Promise<string> {
  for (const path of IN_IMAGES) {
    const found = await files.readText(path, { maxBytes: MAX_BYTES }).catch(() => '');
    if (found.includes('-----BEGIN CERTIFICATE-----')) return found;
  }
  return rootCertificates.join('\n');
}
