import { argv } from 'node:process';
import { createSecureContext, rootCertificates } from 'node:tls';

import { judgeTarget, Lookups, toRules } from './decisions.ts';
import { DecisionLog, readPolicy } from './files.ts';
import { Relay } from './relay.ts';
import { createProxyServer } from './server.ts';
import { readSettings, toAddressRules, type ProxySettings } from './settings.ts';

/*
 * The proxy through which sandboxes reach the hosts that they may. It runs in a container of its own, without rights, and
 * knows sandboxes by the addresses that they have in networks that they share with it alone.
 *
 *   main SETTINGS serve                    until it is ended; prints a line when it listens
 *   main SETTINGS check SOURCE HOST PORT   prints what would be decided, as JSON
 */

async function serve(settings: ProxySettings): Promise<void> {
  const lookups = new Lookups({ servers: settings.dns, rules: toAddressRules(settings) });
  const relay = new Relay({ root: settings.root, lookups, log: new DecisionLog(settings.root) });
  // Made once: it is a hundred and more certificates.
  const trusted = createSecureContext({ ca: [...rootCertificates, ...settings.authorities] });
  const server = createProxyServer(relay, { trusted });
  await new Promise<void>((resolve) => {
    server.listen(settings.port, '0.0.0.0', resolve);
  });
  relay.start();
  process.stdout.write('listening\n');
}

async function check(settings: ProxySettings, [source = '', host = '', port = '']: readonly string[]): Promise<void> {
  const policy = await readPolicy(settings.root, source);
  const verdict = judgeTarget({ host, port: Number(port) }, toRules(policy?.allow ?? []));
  const lookups = new Lookups({ servers: settings.dns, rules: toAddressRules(settings) });
  const found = verdict.allowed ? await lookups.find(verdict.host) : {};
  const denied = 'reason' in found ? { allowed: false } : {};
  process.stdout.write(`${JSON.stringify({ ...verdict, ...found, ...denied })}\n`);
}

const [settingsPath = '', command, ...rest] = argv.slice(2);
const settings = readSettings(settingsPath);
await (command === 'check' ? check(settings, rest) : serve(settings));
