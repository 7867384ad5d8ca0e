import { rootCertificates } from 'node:tls';
import { expect, it } from 'vitest';

import { installTrust, trustVariables } from '../../../src/egress/trust.js';
import type { SandboxFiles } from '../../../src/files/files.js';

const OWN = '-----BEGIN CERTIFICATE-----\nown\n-----END CERTIFICATE-----\n';
const SYSTEM = '-----BEGIN CERTIFICATE-----\nsystem\n-----END CERTIFICATE-----';

/** The files of a sandbox, by their paths, with their modes. */
function sandboxWith(there: Readonly<Record<string, string>>) {
  const written = new Map<string, { text: string; mode: number | undefined }>();
  const files: Pick<SandboxFiles, 'readText' | 'write'> = {
    async readText(path) {
      const text = there[path];
      if (text === undefined) throw new Error('it is not there');
      return text;
    },
    async write(path, data, { mode } = {}) {
      written.set(path, { text: data as string, mode });
      return undefined as never;
    },
  };
  return { files: files as SandboxFiles, written };
}

const { SSL_CERT_FILE: all = '', NODE_EXTRA_CA_CERTS: one = '' } = trustVariables();

it.each([['/etc/ssl/certs/ca-certificates.crt'], ['/etc/pki/tls/certs/ca-bundle.crt'], ['/etc/ssl/cert.pem']])(
  'what an image trusts by %s is trusted besides',
  async (path) => {
    const { files, written } = sandboxWith({ [path]: SYSTEM });
    await installTrust(files, OWN);
    expect(written.get(one)).toEqual({ text: OWN, mode: 0o444 });
    expect(written.get(all)).toEqual({ text: `${SYSTEM}\n${OWN}`, mode: 0o444 });
  },
);

it.each([[{}], [{ '/etc/ssl/cert.pem': 'nothing of the kind' }]])(
  'with what Node.js trusts where an image has none: %j',
  async (there) => {
    const { files, written } = sandboxWith(there);
    await installTrust(files, OWN);
    const { text = '' } = written.get(all) ?? {};
    expect(text.match(/BEGIN CERTIFICATE/g)).toHaveLength(rootCertificates.length + 1);
    expect(text.endsWith(OWN)).toBe(true);
  },
);
