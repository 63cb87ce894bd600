// Driver of the official Node service SDK, unmodified: see ../services.py.
'use strict';

const readline = require('readline');
const { Client, Registry } = require('azure-iothub');

let registry = null;
// For methods; it is never opened, which would be AMQP.
let client = null;

// As it is, and once: the SDK would go on for minutes.
const once = { shouldRetry: () => false, nextRetryTimeout: () => -1 };

// What the SDK resolves to, with the answer it came from.
const body = async (promise) => (await promise).responseBody;

// With a module object the SDK needs a callback: as a promise it fails before it sends anything.
const removeModule = (module) => new Promise((resolve, reject) => {
  registry.removeModule(module, (error) => (error ? reject(error) : resolve()));
});

const operations = {
  connect: async (ask) => {
    registry = Registry.fromConnectionString(ask.connection_string);
    client = Client.fromConnectionString(ask.connection_string);
    client.setRetryPolicy(once);
  },
  create: (ask) => body(ask.identity.moduleId
    ? registry.addModule(ask.identity) : registry.create(ask.identity)),
  // A device is updated whatever its ETag: the SDK knows no other way.
  update: (ask) => body(ask.identity.moduleId
    ? registry.updateModule({ ...ask.identity, etag: ask.etag }, !ask.etag)
    : registry.update(ask.identity)),
  get: (ask) => body(ask.module ? registry.getModule(ask.device, ask.module) : registry.get(ask.device)),
  list: () => body(registry.list()),
  modules: (ask) => body(registry.getModulesOnDevice(ask.device)),
  delete: async (ask) => {
    if (!ask.module) await registry.delete(ask.device);
    else if (ask.etag) await removeModule({ deviceId: ask.device, moduleId: ask.module, etag: ask.etag });
    else await registry.removeModule(ask.device, ask.module);
    return null;
  },
  twin: (ask) => body(ask.module ? registry.getModuleTwin(ask.device, ask.module) : registry.getTwin(ask.device)),
  update_twin: (ask) => body(ask.module
    ? registry.updateModuleTwin(ask.device, ask.module, ask.patch, ask.etag || '*')
    : registry.updateTwin(ask.device, ask.patch, ask.etag || '*')),
  invoke: async (ask) => {
    const call = {
      methodName: ask.name,
      payload: ask.payload,
      responseTimeoutInSeconds: ask.response_timeout,
      connectTimeoutInSeconds: ask.connect_timeout,
    };
    const done = ask.module
      ? client.invokeDeviceMethod(ask.device, ask.module, call)
      : client.invokeDeviceMethod(ask.device, call);
    return (await done).result;
  },
  statistics: () => body(registry.getRegistryStatistics()),
  bulk: (ask) => {
    if (ask.mode === 'add') return body(registry.addDevices(ask.devices));
    if (ask.mode === 'update') return body(registry.updateDevices(ask.devices, Boolean(ask.force)));
    return body(registry.removeDevices(ask.devices, Boolean(ask.force)));
  },
};

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const ask = JSON.parse(line);
    let answer;
    try {
      answer = { result: await operations[ask.op](ask) };
      if (answer.result === undefined) answer.result = null;
    } catch (error) {
      answer = { error: {
        type: error.name,
        message: error.message,
        causes: [],
        status: error.response ? error.response.statusCode : null,
        body: error.responseBody || null,
      } };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit(0);
}

main();
