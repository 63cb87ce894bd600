// Driver of the official Node device SDK, unmodified: see ../drivers.py.
'use strict';

const fs = require('fs');
const readline = require('readline');
const { NoRetry } = require('azure-iot-common');
const { Client, ModuleClient, Message, SharedAccessKeyAuthenticationProvider } = require('azure-iot-device');
const { Http } = require('azure-iot-device-http');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');

// How many messages may be on their way at once.
const WINDOW = 50;

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

let client = null;

function create(ask) {
  const transport = { mqtt: Mqtt, websocket: MqttWs, https: Http }[ask.transport];
  if (ask.token) return Client.fromSharedAccessSignature(ask.token, transport);
  if (ask.certificate) {
    return Client.fromConnectionString(`HostName=${ask.host};DeviceId=${ask.device_id};x509=true`, transport);
  }
  const kind = ask.connection_string.includes(';ModuleId=') ? ModuleClient : Client;
  if (!ask.ttl) return kind.fromConnectionString(ask.connection_string, transport);
  const provider = SharedAccessKeyAuthenticationProvider.fromConnectionString(
    ask.connection_string, ask.ttl, ask.margin);
  return kind.fromAuthenticationProvider(provider, transport);
}

async function connect(ask) {
  if (!client) {
    client = create(ask);
    client.on('connect', () => say({ event: 'connected' }));
    client.on('disconnect', () => say({ event: 'disconnected' }));
    // Without a listener an error of the SDK's would end the process.
    client.on('error', (error) => say({ event: 'error', type: error.name }));
    if (!ask.retry) client.setRetryPolicy(new NoRetry());
    const options = ask.ca ? { ca: ask.ca } : {};
    if (ask.certificate) {
      options.cert = fs.readFileSync(ask.certificate, 'ascii');
      options.key = fs.readFileSync(ask.key, 'ascii');
      // Without any of these the SDK's HTTP transport never says that it has taken the others.
      if (ask.transport === 'https') options.http = { receivePolicy: { interval: 1 } };
    }
    if (ask.ca || ask.certificate) await client.setOptions(options);
  }
  await client.open();
}

function message(one) {
  const made = new Message(Buffer.from(one.body, 'base64'));
  if (one.message_id !== undefined) made.messageId = one.message_id;
  if (one.correlation_id !== undefined) made.correlationId = one.correlation_id;
  if (one.content_type !== undefined) made.contentType = one.content_type;
  if (one.content_encoding !== undefined) made.contentEncoding = one.content_encoding;
  for (const [key, value] of Object.entries(one.properties || {})) made.properties.add(key, value);
  return made;
}

async function send(ask) {
  const onTheWay = new Set();
  let failure = null;
  for (const one of ask.messages) {
    if (failure) break;
    const sent = one.output === undefined
      ? client.sendEvent(message(one))
      : client.sendOutputEvent(one.output, message(one));
    const done = sent.catch((error) => { failure = failure || error; }).finally(() => onTheWay.delete(done));
    onTheWay.add(done);
    if (onTheWay.size >= WINDOW) await Promise.race(onTheWay);
  }
  await Promise.all(onTheWay);
  if (failure) throw failure;
}

async function sendBatch(ask) {
  // It resolves to the answer as it came.
  await client.sendEventBatch(ask.messages.map(message));
}

let twin = null;

async function readTwin() {
  if (twin) await twin.get();
  else twin = await client.getTwin();
  // Without what the SDK puts among them.
  return JSON.parse(JSON.stringify(twin.properties));
}

// Whether it has subscribed the SDK does not say: what it is asked next, the hub answers after it.
async function watchDesired() {
  await readTwin();
  twin.on('properties.desired', (patch) => say({ event: 'desired', patch }));
  await readTwin();
}

const report = (ask) => new Promise((resolve, reject) => {
  twin.properties.reported.update(ask.patch, (error) => (error ? reject(error) : resolve()));
});

// The SDK takes no methods but those that are named to it.
async function takeMethods(ask) {
  const take = client instanceof ModuleClient ? 'onMethod' : 'onDeviceMethod';
  for (const [name, answer] of Object.entries(ask.answers)) {
    client[take](name, (request, response) => {
      say({ event: 'method', name, payload: request.payload });
      if (answer) response.send(answer.status, answer.payload).catch((error) => say({ event: 'error', type: error.name }));
    });
  }
}

// Each in turn is settled so; those that come after them are completed.
function takeCommands(ask) {
  const turns = [...(ask.settle || [])];
  if (ask.transport === 'https') client.setOptions({ http: { receivePolicy: { interval: 1 } } }).catch(() => {});
  client.on('message', async (received) => {
    const properties = {};
    for (let at = 0; at < received.properties.count(); at += 1) {
      const { key, value } = received.properties.getItem(at);
      properties[key] = value;
    }
    const how = turns.shift() || 'complete';
    try {
      await client[how](received);
    } catch (error) {
      say({ event: 'error', type: error.name });
    }
    say({
      event: 'command',
      body: Buffer.from(received.data).toString('base64'),
      message_id: received.messageId,
      correlation_id: received.correlationId,
      user_id: received.userId,
      content_type: received.contentType,
      content_encoding: received.contentEncoding,
      ack: received.ack,
      expires: received.expiryTimeUtc,
      properties,
    });
  });
}

// A hub sends nothing to inputs: what comes is said, lest it be overlooked.
function takeInputs() {
  client.on('inputMessage', (name) => say({ event: 'input', name }));
}

const operations = {
  connect,
  send,
  send_batch: sendBatch,
  twin: readTwin,
  report: async (ask) => { await readTwin(); await report(ask); },
  watch_desired: watchDesired,
  take_methods: takeMethods,
  take_commands: takeCommands,
  take_inputs: takeInputs,
  disconnect: () => client.close(),
};

function causes(error) {
  const found = [];
  for (let one = error.innerError || error.cause; one; one = one.innerError || one.cause) {
    found.push(`${one.name}: ${one.code || ''} ${one.message}`);
  }
  return found;
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const ask = JSON.parse(line);
    try {
      const result = await operations[ask.op](ask);
      say({ result: result === undefined ? null : result });
    } catch (error) {
      say({ error: { type: error.name, message: error.message, causes: causes(error) } });
    }
  }
  if (client) await client.close().catch(() => {});
  process.exit(0);
}

main();
