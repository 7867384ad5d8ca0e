import type { AddressInfo } from 'node:net';
import Docker from 'dockerode';
import express from 'express';
import { z } from 'zod';

import { execByHand } from './by-hand.js';

/*
 * The other side of the REST comparison: a service of the same framework that checks the body with zod and runs the command
 * through dockerode, and does nothing else. It runs in a process of its own, as Sandyard's service does. Its argument is how to
 * reach the engine, as dockerode's options in JSON.
 */

const body = z.object({ command: z.array(z.string()).min(1) });

const docker = new Docker(JSON.parse(process.argv[2] ?? '{}') as Docker.DockerOptions);
const app = express();
app.post('/api/sandboxes/:id/execute', express.json(), async (request, response) => {
  const { command } = body.parse(request.body);
  const { exitCode } = await execByHand(docker.getContainer(request.params.id), command);
  response.json({ exit_code: exitCode });
});
const server = app.listen(0, '127.0.0.1', () => {
  console.log(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
});
